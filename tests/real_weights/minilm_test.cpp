// all-MiniLM-L6-v2 from its folder gives the sentence vectors that transformers gives (tests/golden/make_minilm.py).
#include <gtest/gtest.h>

#include <cmath>
#include <models/golden.hpp>
#include <remat/models.hpp>
#include <remat/pretrained.hpp>
#include <remat/remat.hpp>
#include <string>
#include <vector>

namespace {

using namespace remat;

std::string sentences(std::size_t i) {
  if (i == 0) return "A training step forgets most of what its forward pass computed.";
  if (i == 1) return "Backward asks for activations again, and they are recomputed!";
  if (i == 2) return "naïve café: déjà vu — 東京 2026";
  std::string text;
  for (int k = 0; k < 40; ++k) text += "Memory is traded for time. ";
  return text;
}

// Means of what each token becomes, padding left out, of length 1; a batch of unlike lengths, one cut at 128 tokens.
TEST(MiniLm, SentenceVectors) {
  const io::SafetensorsFile golden(remat_test::golden("minilm.safetensors"));
  const auto ids = golden.read<std::int32_t>("ids"), lengths = golden.read<std::int32_t>("lengths");
  const auto vectors = golden.read<float>("vectors");
  const Index rows = ids.shape()[0], length = ids.shape()[1], dims = vectors.shape()[1];
  ASSERT_EQ(rows, 4);

  const auto tokenizer = text::load_tokenizer(REMAT_MINILM "/tokenizer.json");
  ASSERT_EQ(tokenizer.max_length(), std::size_t{128});
  for (Index b = 0; b < rows; ++b) {
    auto mine = tokenizer.encode(sentences(static_cast<std::size_t>(b)));
    if (mine.size() > 128) mine[127] = mine.back(), mine.resize(128);
    ASSERT_EQ(static_cast<Index>(mine.size()), lengths[b]);
    for (Index t = 0; t < lengths[b]; ++t) ASSERT_EQ(mine[static_cast<std::size_t>(t)], ids(b, t)) << b << ' ' << t;
  }

  ParameterRegistry parameters;
  const auto encoder = models::load_bert<models::Encoder<float>>(parameters / "bert", REMAT_MINILM);
  EXPECT_EQ(parameters.entries().size(), 103U);
  Tape tape({.mode = Mode::evaluate});
  const Tensor<float> hidden = encoder(tape, {.ids = ids, .lengths = lengths}).value();
  for (Index b = 0; b < rows; ++b) {
    std::vector<double> mean(static_cast<std::size_t>(dims));
    for (Index t = 0; t < lengths[b]; ++t)
      for (Index d = 0; d < dims; ++d)
        mean[static_cast<std::size_t>(d)] += static_cast<double>(hidden[(b * length + t) * dims + d]);
    double squares = 0;
    for (const double m : mean) squares += m * m;
    for (Index d = 0; d < dims; ++d)
      ASSERT_NEAR(mean[static_cast<std::size_t>(d)] / std::sqrt(squares), vectors(b, d), 1e-5) << b << ' ' << d;
  }
}

}  // namespace
