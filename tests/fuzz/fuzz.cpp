// libFuzzer on the reader that REMAT_FUZZ names: ./run fuzz.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fuzz/targets.hpp>
#include <string_view>

namespace {

const remat_test::FuzzTarget& chosen() {
  const char* const name = std::getenv("REMAT_FUZZ");
  for (const auto& target : remat_test::fuzz_targets)
    if (name != nullptr && std::string_view(name) == target.name) return target;
  for (const auto& target : remat_test::fuzz_targets) std::fprintf(stderr, "%s\n", target.name);
  std::exit(2);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const remat_test::FuzzTarget& target = chosen();
  try {
    target.read({reinterpret_cast<const char*>(data), size});
  } catch (const remat::Error&) {
  }
  return 0;
}
