// Training by several processes, over MPI: link remat::distributed.
#pragma once

#include <remat/distributed/agree.hpp>
#include <remat/distributed/context_parallel.hpp>
#include <remat/distributed/gradient_sum.hpp>
#include <remat/distributed/group.hpp>
#include <remat/distributed/mpi.hpp>
#include <remat/distributed/sharded.hpp>
#include <remat/distributed/shards.hpp>
#include <remat/distributed/threads.hpp>
#include <remat/distributed/training_states.hpp>
#include <remat/distributed/transport.hpp>
#include <remat/distributed/tree.hpp>
