# Runs PROGRAM WHERE on RANKS ranks, of which one fails: all must have ended within 5 seconds, and a text that fits EXPECTED
# (a regular expression) names the rank. MPIRUN is a list.
cmake_minimum_required(VERSION 3.25)
string(TIMESTAMP begin "%s")
execute_process(COMMAND ${MPIRUN} ${RANKS} "${PROGRAM}" ${WHERE} TIMEOUT 30
                RESULT_VARIABLE result OUTPUT_VARIABLE said ERROR_VARIABLE said)
string(TIMESTAMP end "%s")
math(EXPR seconds "${end} - ${begin}")
message(STATUS "after ${seconds} s: ${result}\n${said}")
if(result EQUAL 0)
  message(FATAL_ERROR "a rank that failed was not noticed")
endif()
if(seconds GREATER ${SECONDS})
  message(FATAL_ERROR "the other ranks went on for ${seconds} s")
endif()
if(NOT said MATCHES "${EXPECTED}")
  message(FATAL_ERROR "nothing that was said fits \"${EXPECTED}\"")
endif()
