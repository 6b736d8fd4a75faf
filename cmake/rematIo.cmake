# remat::io = remat::remat with nlohmann_json and libxxhash, which <remat/io/...> includes. Defined where both are found;
# read by our own build and by the installed package alike.
find_package(nlohmann_json QUIET)
find_path(REMAT_XXHASH_INCLUDE xxhash.h)
find_library(REMAT_XXHASH_LIBRARY xxhash)
mark_as_advanced(REMAT_XXHASH_INCLUDE REMAT_XXHASH_LIBRARY)
if(nlohmann_json_FOUND AND REMAT_XXHASH_INCLUDE AND REMAT_XXHASH_LIBRARY AND NOT TARGET remat::io)
  add_library(remat::io INTERFACE IMPORTED GLOBAL)
  target_include_directories(remat::io INTERFACE "${REMAT_XXHASH_INCLUDE}")
  target_link_libraries(remat::io INTERFACE remat::remat nlohmann_json::nlohmann_json "${REMAT_XXHASH_LIBRARY}")
endif()
