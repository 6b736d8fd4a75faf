# remat::distributed = remat::io with MPI, for programs of several processes that include <remat/distributed.hpp>. Defined
# where both are found; read by our own build and, where a project asks for the component `distributed`, by the installed
# package. Without it the headers compile to groups of one process.
find_package(MPI QUIET COMPONENTS CXX)
if(MPI_CXX_FOUND AND TARGET remat::io AND NOT TARGET remat::distributed)
  add_library(remat::distributed INTERFACE IMPORTED GLOBAL)
  target_link_libraries(remat::distributed INTERFACE remat::io MPI::MPI_CXX)
  target_compile_definitions(remat::distributed INTERFACE REMAT_DISTRIBUTED_MPI=1)
endif()
