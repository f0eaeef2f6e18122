# SPDX-License-Identifier: MIT
# What gets installed: libckpt.so, libckpt.a, headers, pkg-config and CMake files. Both libraries show only the names of
# libckpt.map; the archive is one object whose other symbols were made local, so that internal names cannot collide with
# those of a program.

# Without its engines there is no library to link, only objects for unit tests.
foreach(part engine/dump engine/restore engine/check engine/inspect kernel/features)
	if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${part}.c AND NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/engine/local_stub.c)
		message(STATUS "lib/${part}.c is missing: no libckpt, no ckpt")
		return()
	endif()
endforeach()

set(MAP ${CMAKE_CURRENT_SOURCE_DIR}/api/libckpt.map)
set(CKPT_ALL_OBJECTS $<TARGET_OBJECTS:ckpt_objects> $<TARGET_OBJECTS:ckpt_schema_objects>)

add_library(ckpt_shared SHARED ${CKPT_ALL_OBJECTS})
target_link_libraries(ckpt_shared PRIVATE PkgConfig::DEPS)
target_link_options(ckpt_shared PRIVATE -Wl,--version-script=${MAP} -Wl,-z,relro,-z,now ${CKPT_SANITIZE_FLAGS})
if(NOT CKPT_SANITIZE)
	target_link_options(ckpt_shared PRIVATE -Wl,-z,defs)
endif()
target_include_directories(ckpt_shared INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
	$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
set_target_properties(ckpt_shared PROPERTIES OUTPUT_NAME ckpt EXPORT_NAME libckpt LINKER_LANGUAGE C
	VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINK_DEPENDS ${MAP})
add_library(libckpt::libckpt ALIAS ckpt_shared)

set(ARCHIVE ${CMAKE_CURRENT_BINARY_DIR}/libckpt.a)
add_custom_command(OUTPUT ${ARCHIVE}
	COMMAND ${CMAKE_COMMAND} -E rm -f ${ARCHIVE}
	COMMAND ${CMAKE_LINKER} -r -o libckpt.o ${CKPT_ALL_OBJECTS}
	COMMAND ${CMAKE_OBJCOPY} --localize-hidden libckpt.o
	COMMAND ${CMAKE_AR} rcs ${ARCHIVE} libckpt.o
	DEPENDS ckpt_objects ckpt_schema_objects ${CKPT_ALL_OBJECTS}
	WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR} COMMAND_EXPAND_LISTS VERBATIM)
add_custom_target(ckpt_static ALL DEPENDS ${ARCHIVE})

# --- for programs that use the library
set(PC_PREFIX ${CMAKE_INSTALL_PREFIX})
configure_file(${PROJECT_SOURCE_DIR}/cmake/libckpt.pc.in ${CMAKE_CURRENT_BINARY_DIR}/libckpt.pc @ONLY)
include(CMakePackageConfigHelpers)
set(CONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/libckpt)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/libckptConfig.cmake.in
	${CMAKE_CURRENT_BINARY_DIR}/libckptConfig.cmake INSTALL_DESTINATION ${CONFIG_DIR}
	PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/libckptConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(TARGETS ckpt_shared EXPORT libckptTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${ARCHIVE} DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/ckpt DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/libckpt.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(EXPORT libckptTargets NAMESPACE libckpt:: DESTINATION ${CONFIG_DIR})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/libckptConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/libckptConfigVersion.cmake
	DESTINATION ${CONFIG_DIR})

add_test(NAME check-api COMMAND ${PROJECT_SOURCE_DIR}/cmake/check-api ${PROJECT_SOURCE_DIR}
	$<TARGET_FILE:ckpt_shared> ${ARCHIVE})
