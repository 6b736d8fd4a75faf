/* llm.c's side of `./run bench peers --llmc FOLDER`: its GPT-2 on the CPU, from the train_gpt2.c of a checkout of it, with
 * random weights. Its head is tied, its linears have biases, it clips no gradient and decays all parameters.
 * The answers are those that steps.py says. */
#define TESTING /* leaves out its main */
#include "train_gpt2.c"

static long flag(int argc, char** argv, const char* name) {
  for (int i = 1; i + 1 < argc; ++i)
    if (strcmp(argv[i], name) == 0) return atol(argv[i + 1]);
  fprintf(stderr, "%s is missing\n", name);
  exit(2);
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

/* Normal with deviation 0.02, nearly: a sum of four uniform numbers. */
static float weight(unsigned long long* state) {
  float sum = 0;
  for (int i = 0; i < 4; ++i) {
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    sum += (float)(*state >> 40) / 16777216.0F - 0.5F;
  }
  return 0.02F * 1.732F * sum;
}

static void build(GPT2* model, GPT2Config config) {
  memset(model, 0, sizeof *model);
  model->config = config;
  fill_in_parameter_sizes(model->param_sizes, config);
  for (int i = 0; i < NUM_PARAMETER_TENSORS; ++i) model->num_parameters += model->param_sizes[i];
  model->params_memory = malloc_and_point_parameters(&model->params, model->param_sizes);
  unsigned long long state = 1;
  for (size_t i = 0; i < model->num_parameters; ++i) model->params_memory[i] = weight(&state);
  const size_t channels = (size_t)config.channels, of_layers = channels * (size_t)config.num_layers;
  for (size_t i = 0; i < of_layers; ++i) model->params.ln1w[i] = model->params.ln2w[i] = 1;
  for (size_t i = 0; i < channels; ++i) model->params.lnfw[i] = 1;
}

int main(int argc, char** argv) {
  const int batch = (int)flag(argc, argv, "--batch"), context = (int)flag(argc, argv, "--context");
  GPT2Config config = {.max_seq_len = context,
                       .vocab_size = (int)flag(argc, argv, "--vocabulary"),
                       .num_layers = (int)flag(argc, argv, "--layers"),
                       .num_heads = (int)flag(argc, argv, "--heads"),
                       .channels = (int)flag(argc, argv, "--dims")};
  config.padded_vocab_size = (config.vocab_size + 127) / 128 * 128; /* as its own files have it */
  GPT2 model;
  build(&model, config);

  FILE* file = NULL;
  for (int i = 1; i + 1 < argc; ++i)
    if (strcmp(argv[i], "--tokens") == 0) file = fopenCheck(argv[i + 1], "rb");
  if (file == NULL) return 2;
  fseek(file, 0, SEEK_END);
  const size_t count = (size_t)ftell(file) / sizeof(int), size = (size_t)batch * (size_t)context;
  int* tokens = mallocCheck(count * sizeof(int));
  fseek(file, 0, SEEK_SET);
  freadCheck(tokens, sizeof(int), count, file);
  fcloseCheck(file);

  const size_t padding = (size_t)(config.padded_vocab_size - config.vocab_size) * (size_t)config.channels;
  printf("{\"parameters\": %zu}\n", model.num_parameters - padding);
  fflush(stdout);
  size_t done = 0;
  for (char line[64]; fgets(line, sizeof line, stdin) != NULL;) {
    const long steps = atol(line);
    double* const ms = mallocCheck((size_t)(steps + 1) * sizeof(double)); /* it prints in its first step */
    for (long i = 0; i < steps; ++i) {
      int* const at = tokens + done % ((count - 1) / size) * size;
      const double start = now_ms();
      gpt2_forward(&model, at, at + 1, (size_t)batch, (size_t)context);
      gpt2_zero_grad(&model);
      gpt2_backward(&model);
      gpt2_update(&model, 1e-3F, 0.9F, 0.99F, 1e-8F, 0.1F, (int)++done);
      ms[i] = now_ms() - start;
    }
    printf("{\"ms\": [");
    for (long i = 0; i < steps; ++i) printf("%s%.6f", i > 0 ? ", " : "", ms[i]);
    printf("], \"loss\": %.8f}\n", (double)model.mean_loss);
    fflush(stdout);
    free(ms);
  }
  return 0;
}
