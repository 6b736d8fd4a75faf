// A run that is resumed makes its products as it began, whatever the machine would choose now.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <remat/io/chosen_products.hpp>
#include <remat/io/training_state.hpp>
#include <remat/params/registry.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;
using io::ChosenProducts;
using kernels::Backend;
using kernels::GemmChoice;

/// As a trainer keeps it; the environment fixes nothing unless a test says so.
class ChosenProductsOfARun : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* text = std::getenv("REMAT_GEMM")) fixed_ = text;
    unsetenv("REMAT_GEMM");
    kernels::set_gemm_choice(GemmChoice());
  }
  void TearDown() override {
    kernels::set_gemm_choice(before_);
    if (fixed_) setenv("REMAT_GEMM", fixed_->c_str(), 1);
    std::filesystem::remove_all(folder_);
  }
  template <class Products>
  void save(Products& products, const std::string& backends = ChosenProducts::backends()) {
    io::TrainingStates states(parameters_, {.folder = folder_, .in_background = false});
    states.add("products", products);
    states.may_differ("products", backends);
    states.save(1);
  }
  std::vector<std::string> resume() {
    ChosenProducts products;
    io::TrainingStates states(parameters_, {.folder = folder_, .in_background = false});
    states.add("products", products);
    states.may_differ("products", ChosenProducts::backends());
    return states.resume().value().notes;
  }

 private:
  const GemmChoice before_ = kernels::gemm_choice();
  std::optional<std::string> fixed_{};
  const std::string folder_ =
      (std::filesystem::temp_directory_path() / ("remat_products_" + std::to_string(::getpid()))).string();
  ParameterRegistry parameters_{};
};

/// The last backend of this program for two classes, its own for the others.
GemmChoice mixed() {
  GemmChoice choice;
  choice[2] = choice[5] = kernels::backends.back();
  return choice;
}

TEST_F(ChosenProductsOfARun, AreThoseThatItBeganWith) {
  ChosenProducts products;
  kernels::set_gemm_choice(mixed());
  save(products);
  kernels::set_gemm_choice(GemmChoice(kernels::backends.back()));  // what another process chose
  EXPECT_TRUE(resume().empty());
  EXPECT_EQ(kernels::gemm_choice(), mixed());
  const kernels::Gemm small{.b = kernels::Trans::yes, .m = 8, .n = 8, .k = 8};
  EXPECT_EQ(kernels::gemm_choice().of(small), kernels::backends.back());
}

TEST_F(ChosenProductsOfARun, AreThoseThatTheEnvironmentFixes) {
  ChosenProducts products;
  kernels::set_gemm_choice(GemmChoice(kernels::backends.back()));
  save(products);
  kernels::set_gemm_choice(GemmChoice());
  setenv("REMAT_GEMM", "own", 1);
  EXPECT_TRUE(resume().empty());
  EXPECT_EQ(kernels::gemm_choice(), GemmChoice());
  setenv("REMAT_GEMM", "", 1);  // fixes nothing
  resume();
  EXPECT_EQ(kernels::gemm_choice(), GemmChoice(kernels::backends.back()));
}

/// Of a program with a library that there is not here.
struct ProductsOfAnother : ChosenProducts {
  StateDict state_dict() const {
    StateDict state = ChosenProducts::state_dict();
    state.numbers.at("tn") = 7;
    return state;
  }
};

// The choice in force stays whole, and a note tells of the libraries.
TEST_F(ChosenProductsOfARun, StayAsTheyAreForABackendThatThereIsNot) {
  ProductsOfAnother products;
  save(products, "own, another library 1.2");
  kernels::set_gemm_choice(mixed());
  const std::vector<std::string> notes = resume();
  ASSERT_EQ(notes.size(), 1U);
  EXPECT_NE(notes[0].find("products was own, another library 1.2 and is " + ChosenProducts::backends()),
            std::string::npos)
      << notes[0];
  EXPECT_EQ(kernels::gemm_choice(), mixed());
  ChosenProducts().load_state_dict({});  // of a program that saved no choice
  EXPECT_EQ(kernels::gemm_choice(), mixed());
}

}  // namespace
