# SPDX-License-Identifier: MIT
# Puts the options of a command, as the program prints them, into its manual page.
cmake_minimum_required(VERSION 3.20)
execute_process(COMMAND ${CKPT} ${COMMAND} --man-options OUTPUT_VARIABLE OPTIONS RESULT_VARIABLE status)
if(NOT status EQUAL 0)
	message(FATAL_ERROR "${CKPT} ${COMMAND} --man-options failed: ${status}")
endif()
file(READ ${IN} text)
string(REPLACE "@OPTIONS@\n" "${OPTIONS}" text "${text}")
string(REPLACE "@VERSION@" "${VERSION}" text "${text}")
file(WRITE ${OUT} "${text}")
