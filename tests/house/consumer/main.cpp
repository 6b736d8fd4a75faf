// The smallest program of a user: prints the version, and checks that it is the one named on the command line.
#include <cstdio>
#include <cstring>
#include <remat/remat.hpp>

int main(int argc, char** argv) {
  std::puts(remat::version());
  return argc == 2 && std::strcmp(argv[1], remat::version()) == 0 ? 0 : 1;
}
