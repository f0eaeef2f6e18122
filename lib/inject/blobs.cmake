# SPDX-License-Identifier: MIT
# Blobs: freestanding programs that run inside other processes. ckpt_blob(NAME sources...) builds lib/inject/NAME/ and the
# common runtime of lib/inject/blob/ into one position-independent ELF file whose single segment starts at offset 0 of
# the file: the file can be executed, and it can as well be mapped anywhere as it is and entered at e_entry. The library
# has it between blob_NAME_start and blob_NAME_end (an assembler file that is added to BLOB_SOURCES).

set(BLOB_SOURCES "")
set(BLOB_DIR ${PROJECT_BINARY_DIR}/blobs)
file(MAKE_DIRECTORY ${BLOB_DIR})
# No libc, no libc's start-up, no state that needs relocation, nothing in vector registers: a blob may run in a process
# whose registers are somebody else's. Sanitizers do not apply.
set(BLOB_CFLAGS -O2 -ffreestanding -fpie -fvisibility=hidden -fno-stack-protector -fno-asynchronous-unwind-tables
	-fno-jump-tables -fno-tree-loop-distribute-patterns -fno-common -fcf-protection=none -mgeneral-regs-only
	-fno-sanitize=all -U_FORTIFY_SOURCE)

function(ckpt_blob name)
	set(dir ${PROJECT_SOURCE_DIR}/lib/inject)
	set(elf ${BLOB_DIR}/${name}.elf)
	file(GLOB runtime CONFIGURE_DEPENDS ${dir}/blob/*.c ${dir}/blob/*.S)
	add_executable(blob_${name} ${ARGN} ${runtime})
	set_target_properties(blob_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${BLOB_DIR} OUTPUT_NAME ${name}.elf
		LINK_DEPENDS ${dir}/blob/blob.lds)
	target_compile_options(blob_${name} PRIVATE ${CKPT_WARNINGS} ${BLOB_CFLAGS})
	target_include_directories(blob_${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
	target_link_options(blob_${name} PRIVATE -nostdlib -static -no-pie -fno-sanitize=all -Wl,--build-id=none
		-Wl,-z,noexecstack -Wl,--no-warn-rwx-segments -Wl,-s -Wl,-T,${dir}/blob/blob.lds)

	set(source ${BLOB_DIR}/${name}.S)
	file(WRITE ${source}.new "	.section .rodata
	.globl blob_${name}_start, blob_${name}_end
	.hidden blob_${name}_start, blob_${name}_end
	.balign 4096
blob_${name}_start:
	.incbin \"${elf}\"
blob_${name}_end:
	.section .note.GNU-stack, \"\", @progbits
")
	file(COPY_FILE ${source}.new ${source} ONLY_IF_DIFFERENT)
	set_source_files_properties(${source} PROPERTIES OBJECT_DEPENDS ${elf})
	add_custom_command(OUTPUT ${elf}.stamp COMMAND ${CMAKE_COMMAND} -E touch ${elf}.stamp DEPENDS blob_${name})
	set_property(SOURCE ${source} APPEND PROPERTY OBJECT_DEPENDS ${elf}.stamp)
	set(BLOB_SOURCES ${BLOB_SOURCES} ${source} PARENT_SCOPE)
endfunction()

# Every folder with sources is a blob.
foreach(name restorer parasite)
	file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/inject/${name}/*.c
		${CMAKE_CURRENT_SOURCE_DIR}/inject/${name}/*.S)
	if(sources)
		ckpt_blob(${name} ${sources})
	endif()
endforeach()
