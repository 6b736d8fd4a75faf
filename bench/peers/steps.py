"""The common half of the programs that `./run bench peers` compares: flags, tokens, and answers.

Each program prints a line of JSON with its number of parameters when its model is there. Then a line `N` on its input
makes it run N training steps, each forward, backward, clipping by global norm and AdamW, and print a line of JSON with
the milliseconds of each and the last loss. steps_remat.cpp speaks the same.
"""

import argparse
import json
import sys
import time

import numpy

LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 1e-8, 0.1, 1.0  # decay of matrices only


def parse_arguments(description):
    parser = argparse.ArgumentParser(description=description)
    for name in ("layers", "dims", "heads", "context", "batch", "vocabulary", "threads"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--tokens", required=True, help="file of int32; step i reads its i-th part, and round again")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="to compute in")
    parser.add_argument("--untied", action="store_true", help="a head of its own, not the token embedding")
    parser.add_argument("--bias", action="store_true", help="biases in linear layers and norms")
    parser.add_argument("--remat", action="store_true", help="keep no activation inside a layer")
    parser.add_argument("--attention", action="store_true", help="causal attention alone, forward and backward")
    return parser.parse_known_args()


def queries_keys_values(args):
    """The operands of attention alone, [batch, context, 3, heads, dims / heads]."""
    shape = args.batch, args.context, 3, args.heads, args.dims // args.heads
    words = numpy.arange(numpy.prod(shape), dtype=numpy.uint32) * numpy.uint32(2654435761)
    return (((words >> 8) & 1023).astype(numpy.float32) / 512 - 1).reshape(shape)


def serve(args, parameters, step):
    """Answers until the input ends. `step(inputs, targets)`, of [batch, context] each, returns its loss when all of the
    step is done."""
    tokens = numpy.fromfile(args.tokens, dtype=numpy.int32)
    size = args.batch * args.context
    parts = (len(tokens) - 1) // size
    answer = lambda **what: print(json.dumps(what), flush=True)
    answer(parameters=parameters)
    done = 0
    for line in sys.stdin:
        ms = []
        for _ in range(int(line)):
            begin = done % parts * size
            start = time.perf_counter()
            inputs, targets = (tokens[at : at + size].reshape(args.batch, -1) for at in (begin, begin + 1))
            loss = step(inputs, targets)
            ms.append(1e3 * (time.perf_counter() - start))
            done += 1
        answer(ms=ms, loss=float(loss))
