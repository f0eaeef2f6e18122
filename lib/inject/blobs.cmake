# SPDX-License-Identifier: MIT
# Freestanding code that runs inside other processes. ckpt_blob(NAME KIND SOURCES...) links the sources by
# NAME/NAME.lds into a flat binary (KIND flat) or a static ELF (KIND elf), and makes it available to the library as the
# symbols blob_NAME_start and blob_NAME_end.

set(BLOB_DIR ${PROJECT_BINARY_DIR}/blobs)
file(MAKE_DIRECTORY ${BLOB_DIR})
set(BLOB_SOURCES "")
# No FPU (the thread's is live), no red zone (we run on frames), no canaries, no CET notes: nothing that needs a runtime.
set(BLOB_FLAGS -Os -g0 -std=gnu11 -ffreestanding -fno-builtin -nostdlib -fPIE -fvisibility=hidden -mgeneral-regs-only
	-mno-red-zone -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables
	-fno-jump-tables -Wall -Wextra -Wmissing-prototypes -Wno-missing-field-initializers -Werror)
if(NOT CMAKE_C_COMPILER_ID MATCHES Clang) # which makes no memset of a loop with -fno-builtin
	list(APPEND BLOB_FLAGS -fno-tree-loop-distribute-patterns)
endif()

# The same with vector registers, for sources named after FAST: only where the blob is a program of its own, whose registers
# nobody else has in use.
set(BLOB_FAST_FLAGS ${BLOB_FLAGS})
list(REMOVE_ITEM BLOB_FAST_FLAGS -Os -mgeneral-regs-only)
list(APPEND BLOB_FAST_FLAGS -O3 -w)

function(ckpt_blob name kind)
	cmake_parse_arguments(BLOB "" "" "FAST" ${ARGN})
	set(sources "")
	foreach(source ${BLOB_UNPARSED_ARGUMENTS})
		list(APPEND sources ${CMAKE_CURRENT_SOURCE_DIR}/inject/${source})
	endforeach()
	set(objects "")
	foreach(source ${BLOB_FAST})
		string(REPLACE / _ object ${name}_${source}.o)
		set(object ${BLOB_DIR}/${object})
		add_custom_command(OUTPUT ${object}
			COMMAND ${CMAKE_C_COMPILER} ${BLOB_FAST_FLAGS} -I${PROJECT_SOURCE_DIR} -c -o ${object}
				${CMAKE_CURRENT_SOURCE_DIR}/inject/${source}
			DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/inject/${source} ${PROJECT_SOURCE_DIR}/lib/image/block.h VERBATIM)
		list(APPEND objects ${object})
	endforeach()
	set(lds ${CMAKE_CURRENT_SOURCE_DIR}/inject/${name}/${name}.lds)
	set(elf ${BLOB_DIR}/${name}.elf)
	set(out ${BLOB_DIR}/${name}.bin)
	if(kind STREQUAL flat)
		set(make_out ${CMAKE_OBJCOPY} -O binary ${elf} ${out})
	else()
		set(make_out ${CMAKE_STRIP} -o ${out} ${elf})
	endif()
	file(GLOB headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/inject/${name}/*.h ${CMAKE_CURRENT_SOURCE_DIR}/inject/blob/*.h)
	add_custom_command(OUTPUT ${out}
		COMMAND ${CMAKE_C_COMPILER} ${BLOB_FLAGS} -I${PROJECT_SOURCE_DIR} -static -Wl,-T,${lds} -Wl,--build-id=none
			-Wl,-z,noexecstack -Wl,--no-warn-rwx-segments -Wl,-z,max-page-size=4096 -o ${elf} ${sources} ${objects}
		COMMAND ${make_out}
		DEPENDS ${sources} ${objects} ${headers} ${lds} VERBATIM)
	set(asm ${BLOB_DIR}/${name}.S)
	file(WRITE ${asm}.in ".section .rodata\n.global blob_${name}_start, blob_${name}_end\n\
.hidden blob_${name}_start, blob_${name}_end\n.balign 16\nblob_${name}_start:\n.incbin \"${out}\"\nblob_${name}_end:\n\
.section .note.GNU-stack,\"\",@progbits\n")
	configure_file(${asm}.in ${asm} COPYONLY)
	set_source_files_properties(${asm} PROPERTIES OBJECT_DEPENDS ${out} LANGUAGE ASM)
	set(BLOB_SOURCES ${BLOB_SOURCES} ${asm} PARENT_SCOPE)
endfunction()

ckpt_blob(parasite flat parasite/parasite.c)
ckpt_blob(restorer elf blob/mem.c restorer/start.S restorer/main.c restorer/memory.c restorer/fill.c restorer/task.c restorer/thread.c restorer/tree.c
	restorer/files.c restorer/calls.c restorer/timers.c restorer/creds.c restorer/init.c FAST blob/sum.c)
ckpt_blob(mover flat blob/mem.c mover/mover.c FAST blob/sum.c)
