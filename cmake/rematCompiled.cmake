# remat::compiled = remat::remat with the ops, layers and models that most programs use compiled once, for programs that
# include <remat/compiled.hpp>. remat::compiled_native is the same for programs that link remat::native. Built where it is
# linked, with that project's compiler and flags; read by our own build and by the installed package alike.
foreach(kind IN ITEMS compiled compiled_native)
  if(NOT TARGET remat_${kind})
    add_library(remat_${kind} STATIC EXCLUDE_FROM_ALL
      "${CMAKE_CURRENT_LIST_DIR}/compiled/engine.cpp"
      "${CMAKE_CURRENT_LIST_DIR}/compiled/float.cpp"
      "${CMAKE_CURRENT_LIST_DIR}/compiled/double.cpp"
      "${CMAKE_CURRENT_LIST_DIR}/compiled/bfloat16.cpp")
    add_library(remat::${kind} ALIAS remat_${kind})
    target_link_libraries(remat_${kind} PUBLIC remat::remat)
  endif()
endforeach()
target_link_libraries(remat_compiled_native PUBLIC remat::native)
set_target_properties(remat_compiled PROPERTIES
  INTERFACE_REMAT_INSTRUCTIONS portable COMPATIBLE_INTERFACE_STRING REMAT_INSTRUCTIONS)
