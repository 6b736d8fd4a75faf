// A user's program of several processes, which is also one of one.
#include <cstdio>
#include <remat/distributed.hpp>

int main(int argc, char** argv) {
  return remat::distributed::run(argc, argv, [](const remat::distributed::Group& group) {
    std::printf("%d of %d\n", group.rank(), group.size());
    return group.sum(1) == group.size() ? 0 : 1;
  });
}
