# A header that every program includes may define nothing that two of them would both bring: each definition is inline, a
# template or local. Strong symbols in the objects of headers alone are those that lack it.
#   cmake -DNM=<nm> -DOBJECTS=<a;b;...> -P defines_nothing.cmake
cmake_minimum_required(VERSION 3.25)
list(FILTER OBJECTS EXCLUDE REGEX "[.]gch$") # precompiled, which CMake takes for an object
execute_process(COMMAND "${NM}" --defined-only --demangle --print-file-name ${OBJECTS} OUTPUT_VARIABLE symbols
                COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]* [TDBRGSC] [^\n]*" strong "${symbols}")
list(LENGTH strong count)
string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
if(NOT weak)
  message(FATAL_ERROR "no object was looked at")
endif()
if(count GREATER 0)
  list(JOIN strong "\n" strong)
  message(NOTICE "${strong}")
  message(FATAL_ERROR "${count} definitions lack `inline`")
endif()
