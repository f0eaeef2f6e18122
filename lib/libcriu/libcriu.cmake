# SPDX-License-Identifier: MIT
# libcriu.so.2: the functions that programs of the field know, on top of libckpt.so.
file(GLOB LIBCRIU_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/libcriu/*.c)
add_library(criu_shared SHARED ${LIBCRIU_SOURCES})
add_dependencies(criu_shared ckpt_schema)
ckpt_flags(criu_shared)
file(RELATIVE_PATH BIN_FROM_LIB "/${CMAKE_INSTALL_LIBDIR}" "/${CMAKE_INSTALL_BINDIR}")
target_compile_definitions(criu_shared PRIVATE CKPT_BIN_FROM_LIB="${BIN_FROM_LIB}")
target_link_libraries(criu_shared PRIVATE ckpt_front ckpt_shared)
set(LIBCRIU_MAP ${CMAKE_CURRENT_SOURCE_DIR}/libcriu/libcriu.map)
target_link_options(criu_shared PRIVATE -Wl,--version-script=${LIBCRIU_MAP} -Wl,-z,relro,-z,now ${CKPT_SANITIZE_FLAGS})
set_target_properties(criu_shared PROPERTIES OUTPUT_NAME criu VERSION 2.0 SOVERSION 2 LINK_DEPENDS ${LIBCRIU_MAP}
	INSTALL_RPATH "$ORIGIN")

file(RELATIVE_PATH PC_UP "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file(${PROJECT_SOURCE_DIR}/cmake/criu.pc.in ${CMAKE_CURRENT_BINARY_DIR}/criu.pc @ONLY)
install(TARGETS criu_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/criu DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/criu.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(NOT CKPT_SANITIZE)
	add_test(NAME check-libcriu COMMAND ${PROJECT_SOURCE_DIR}/cmake/check-libcriu ${PROJECT_SOURCE_DIR} $<TARGET_FILE:criu_shared>)
endif()
