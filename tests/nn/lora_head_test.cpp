// Adapters of heads, of their own and tied to the embedding: what they add to logits, and that losses which never have
// all logits at once have the same gradients.
#include <gtest/gtest.h>

#include <remat/ops/cross_entropy.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/expect_error.hpp"
#include "nn/adapted_llama.hpp"

namespace {

using namespace remat;
using remat_test::a_batch;
using remat_test::expect_error;
using remat_test::expect_near;
using remat_test::random_tensor;

models::DecoderConfig llama_with(bool tied, Index chunk = 0) {
  models::DecoderConfig config = remat_test::small_llama();
  config.tied_head = tied, config.head_chunk = chunk;
  return config;
}
nn::LoraConfig of_head(bool tied) {
  return {.targets = {"*/ffn/ffn1"}, .rank = 2, .alpha = 6, .heads = {tied ? "*/embedding" : "*/head"}};
}
template <class T>
const typename nn::Lora<T>::Part& head_part(const nn::Lora<T>& lora) {
  return *std::find_if(lora.parts().begin(), lora.parts().end(), [](const auto& part) { return part.is_of_head; });
}
template <class T>
Tensor<T> logits_of(const models::Decoder<T>& model) {
  Tape tape({.mode = Mode::evaluate});
  return model.logits(tape, a_batch().inputs).value();
}

// Merged into the matrix of a head of its own, which lies [V, D], they are w + scale (down up)^T.
TEST(LoraOnHeads, AddsWhatItsFormulaSays) {
  ParameterRegistry parameters(3);
  const models::Decoder<double> model(parameters / "m", llama_with(false));
  const Tensor<double> before = logits_of(model);
  const nn::Lora<double> lora(parameters, parameters / "lora", of_head(false));
  EXPECT_EQ(lora.parts().size(), 3U);
  expect_near(logits_of(model), before, 0);  // up is zero
  remat_test::fill(lora);
  const auto& part = head_part(lora);
  EXPECT_EQ(part.layer, "m/head");
  EXPECT_EQ(part.down.path(), "lora/m/head/down");
  const Tensor<double> w = part.weight.value(), down = part.down.value(), up = part.up.value(),
                       sum = lora.merged(part).weight;
  ASSERT_EQ(sum.shape(), Shape({23, 16}));
  for (Index v = 0; v < 23; ++v)
    for (Index d = 0; d < 16; ++d) {
      double should = w.data()[v * 16 + d];
      for (Index r = 0; r < 2; ++r) should += 3 * down.data()[d * 2 + r] * up.data()[r * 23 + v];
      ASSERT_NEAR(sum.data()[v * 16 + d], should, 1e-12);
    }
  const Tensor<double> adapted = logits_of(model);
  lora.merge();
  expect_near(logits_of(model), adapted, 1e-10);
}

// Tied, they are of the head alone: the model is one whose head is another table.
TEST(LoraOnHeads, OfATiedHeadLeavesTheRowsThatAreLookedUp) {
  ParameterRegistry parameters(3), others(3);
  const models::Decoder<double> model(parameters / "m", llama_with(true)), apart(others / "m", llama_with(false));
  for (const auto& entry : parameters.entries())
    others.at<double>(entry->path).set_value(Parameter<double>(entry).value());
  const nn::Lora<double> lora(parameters, parameters / "lora", of_head(true));
  remat_test::fill(lora);
  const auto& part = head_part(lora);
  EXPECT_EQ(part.layer, "m/embedding");
  EXPECT_EQ(part.down.path(), "lora/m/embedding/head/down");
  apart.head->set_value(model.embedding.table.value());
  const nn::Lora<double> same(others, others / "lora", of_head(false));
  for (std::size_t i = 0; i < lora.parts().size(); ++i) {
    const auto& theirs = same.parts()[i == 2 ? 2 : i];
    const auto& ours = *std::find_if(lora.parts().begin(), lora.parts().end(), [&](const auto& each) {
      return each.is_of_head == theirs.is_of_head && (each.is_of_head || each.layer == theirs.layer);
    });
    theirs.down.set_value(ours.down.value()), theirs.up.set_value(ours.up.value());
  }
  expect_near(logits_of(model), logits_of(apart), 0);
  expect_error({"tied to m/embedding", "keep the adapter"}, [&] { (void)lora.merge(); });
}

// A loss adds an adapter's product to each chunk of logits, and keeps gradients where the head is frozen.
TEST(LoraOnHeads, LossesAndGradientsAreThoseOfAllLogits) {
  for (const bool tied : {false, true})
    for (const bool is_trained : {false, true})
      for (const Index chunk : {Index{0}, Index{3}}) {
        ParameterRegistry parameters(3);
        const models::Decoder<double> model(parameters / "m", llama_with(tied, chunk));
        const nn::Lora<double> lora(parameters, parameters / "lora", of_head(tied));
        remat_test::fill(lora);
        if (is_trained) parameters.unfreeze(tied ? "m/embedding/*" : "m/head/*");
        const auto gradients = [&](bool whole) {
          Tape tape({.step = 1});
          const auto batch = a_batch();
          const Var<double> loss = whole ? cross_entropy(model.logits(tape, batch.inputs), tape.input(batch.targets))
                                         : model.loss(tape, batch);
          tape.backward(loss);
          std::vector<Tensor<double>> all{Tensor<double>({1}, loss.item())};
          for (const auto& entry : parameters.entries())
            if (!entry->is_frozen) all.push_back(Parameter<double>(entry).grad());
          parameters.zero_grad();
          return all;
        };
        const auto by_chunks = gradients(false), whole = gradients(true);
        ASSERT_EQ(by_chunks.size(), is_trained ? 8U : 7U);
        for (std::size_t i = 0; i < whole.size(); ++i) expect_near(by_chunks[i], whole[i], 1e-12);
      }
}

TEST(LoraOnHeads, NoPolicyChangesABit) {
  for (const bool tied : {false, true}) {
    std::vector<Tensor<float>> first;
    for (const char* policy : {"everything", "save_nothing", "dots"}) {
      ParameterRegistry parameters(3);
      auto config = llama_with(tied);
      config.remat = policy::parse(policy);
      const models::Decoder<float> model(parameters / "m", config);
      remat_test::store_all_matrices(parameters);
      auto adapters = of_head(tied);
      adapters.dropout = 0.2;
      const nn::Lora<float> lora(parameters, parameters / "lora", adapters);
      remat_test::fill(lora);
      Tape tape({.step = 5});
      tape.backward(model.loss(tape, a_batch()));
      const std::vector<Tensor<float>> grads = remat_test::trained_gradients(parameters);
      ASSERT_EQ(grads.size(), 6U);
      if (first.empty()) first = grads;
      for (std::size_t i = 0; i < grads.size(); ++i) expect_near(grads[i], first[i], 0);
    }
  }
}

TEST(LoraOnHeads, ComputesInBfloat16AndInACopiedRegistry) {
  ParameterRegistry floats(3), rounded(3);
  const models::Decoder<float> model(floats / "m", llama_with(true));
  const models::Decoder<bfloat16> coarse(rounded / "m", llama_with(true));
  const nn::Lora<float> lora(floats, floats / "lora", of_head(true));
  const nn::Lora<bfloat16> low(rounded, rounded / "lora", of_head(true));
  remat_test::fill(lora), remat_test::fill(low);
  const ParameterRegistry copy(floats);
  EXPECT_EQ(copy.at<float>("m/embedding/table").entry()->head_adapter->up,
            copy.at<float>("lora/m/embedding/head/up").entry());
  Tape tape({.step = 1}), other({.step = 1});
  const auto loss = model.loss(tape, a_batch());
  const auto near = coarse.loss(other, a_batch());
  EXPECT_NEAR(near.item(), loss.item(), 0.05 * loss.item());
  tape.backward(loss), other.backward(near);
  const Tensor<float> should = head_part(lora).up.grad(), is = head_part(low).up.grad();
  double size = 0, off = 0;
  for (Index i = 0; i < should.size(); ++i) {
    size = std::max<double>(size, std::abs(should.data()[i]));
    off = std::max<double>(off, std::abs(should.data()[i] - is.data()[i]));
  }
  EXPECT_LT(off, 0.05 * size);
  EXPECT_GT(size, 0);
}

TEST(LoraOnHeads, RefusesWhatItCannotDo) {
  ParameterRegistry parameters(3);
  const models::Decoder<float> model(parameters / "m", llama_with(false));
  const auto refused = [&](const nn::LoraConfig& config, std::initializer_list<std::string_view> words) {
    expect_error(words, [&] { const nn::Lora<float> lora(parameters, parameters / "l", config); });
  };
  refused({.targets = {"*/head"}}, {"\"*/head\" fits no linear layer"});
  refused({.heads = {"*/haed"}}, {"\"*/haed\" fits no head", "m/head"});
  refused({.targets = {}, .rank = 17, .heads = {"*/head"}}, {"rank 17 is above that of m/head"});
  refused({.dora = true, .heads = {"*/head"}}, {"dora is of linear layers", "heads"});
  const nn::Lora<float> lora(parameters, parameters / "l", of_head(false));
  Tape tape({.step = 1});
  expect_error({"m/head/w", "read transposed"}, [&] {
    (void)linear<float>(tape.input(Tensor<float>({1, 23}, 1.0F)), Parameter<float>(parameters.at<float>("m/head/w")));
  });
  lora.deactivate();
  EXPECT_FALSE(parameters.at<float>("m/head/w").entry()->head_adapter);
}

}  // namespace
