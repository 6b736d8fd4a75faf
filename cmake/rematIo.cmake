# remat::io = remat::remat with nlohmann_json, which <remat/io/...> includes. Defined where that package is found;
# read by our own build and by the installed package alike.
find_package(nlohmann_json QUIET)
if(nlohmann_json_FOUND AND NOT TARGET remat::io)
  add_library(remat::io INTERFACE IMPORTED GLOBAL)
  target_link_libraries(remat::io INTERFACE remat::remat nlohmann_json::nlohmann_json)
endif()
