# SPDX-License-Identifier: MIT

# Flags that every hosted target of ours gets.
function(ckpt_flags target)
	target_compile_options(${target} PRIVATE ${CKPT_WARNINGS} ${CKPT_SANITIZE_FLAGS})
	target_compile_definitions(${target} PRIVATE _GNU_SOURCE _FILE_OFFSET_BITS=64)
	target_link_options(${target} PRIVATE ${CKPT_SANITIZE_FLAGS})
	target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include
		${PROJECT_BINARY_DIR}/schema)
endfunction()
