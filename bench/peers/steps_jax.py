"""JAX's side of `./run bench peers`: the whole step is one compiled function whose state is donated.

With --remat each layer is under jax.checkpoint. bfloat16 casts all parameters once a step.
"""

import functools
import math

import jax
import jax.numpy as jnp
import optax
import steps


def initial_parameters(args):
    keys = iter(jax.random.split(jax.random.key(1), 8 * args.layers + 8))
    normal = lambda deviation, *shape: deviation * jax.random.normal(next(keys), shape)
    with_bias = lambda what, size: what | ({"bias": jnp.zeros(size)} if args.bias else {})
    norm = lambda: with_bias({"scale": jnp.ones(dims)}, dims)
    linear = lambda rows, columns, deviation: with_bias({"w": normal(deviation, rows, columns)}, columns)
    dims, small = args.dims, 0.02
    out = small / math.sqrt(2 * args.layers)
    parameters = {
        "embedding": normal(small, args.vocabulary, dims),
        "positions": normal(small, args.context, dims),
        "final_norm": norm(),
        "layers": [
            {
                "attention_norm": norm(),
                "qkv": linear(dims, 3 * dims, small),
                "out": linear(dims, dims, out),
                "ffn_norm": norm(),
                "ffn1": linear(dims, 4 * dims, small),
                "ffn2": linear(4 * dims, dims, out),
            }
            for _ in range(args.layers)
        ],
    }
    return parameters | ({"head": normal(small, args.vocabulary, dims)} if args.untied else {})


def linear(p, x):
    return x @ p["w"] + p["bias"] if "bias" in p else x @ p["w"]


def norm(p, x):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    y = (wide - mean) * jax.lax.rsqrt(jnp.square(wide - mean).mean(-1, keepdims=True) + 1e-5)
    return (y * p["scale"] + p.get("bias", 0)).astype(x.dtype)


def layer(heads, p, x):
    batch, length, dims = x.shape
    qkv = linear(p["qkv"], norm(p["attention_norm"], x)).reshape(batch, length, 3, heads, dims // heads)
    context = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
    x = x + linear(p["out"], context.reshape(batch, length, dims))
    return x + linear(p["ffn2"], jax.nn.gelu(linear(p["ffn1"], norm(p["ffn_norm"], x)), approximate=False))


def loss_of(args, parameters, inputs, targets):
    p = jax.tree.map(lambda each: each.astype(args.dtype), parameters)
    one_layer = functools.partial(layer, args.heads)
    one_layer = jax.checkpoint(one_layer) if args.remat else one_layer
    x = p["embedding"][inputs] + p["positions"]
    for each in p["layers"]:
        x = one_layer(each, x)
    logits = norm(p["final_norm"], x) @ p.get("head", p["embedding"]).T
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets).mean()


def attend(args):
    attention = lambda qkv: jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True).sum()
    qkv, gradient_of = jnp.asarray(steps.queries_keys_values(args), args.dtype), jax.jit(jax.value_and_grad(attention))
    steps.serve(args, 0, lambda inputs, targets: jax.block_until_ready(gradient_of(qkv))[0])


def main():
    args, rest = steps.parse_arguments(__doc__.splitlines()[0])
    assert not rest, rest
    if args.attention:
        return attend(args)
    decays = lambda parameters: jax.tree.map(lambda each: each.ndim >= 2, parameters)
    b1, b2 = steps.BETAS
    optimizer = optax.chain(
        optax.clip_by_global_norm(steps.CLIP),
        optax.adamw(steps.LEARNING_RATE, b1, b2, steps.EPSILON, weight_decay=steps.WEIGHT_DECAY, mask=decays),
    )

    @functools.partial(jax.jit, donate_argnums=(0,))
    def update(state, inputs, targets):
        parameters, moments = state
        loss, gradients = jax.value_and_grad(functools.partial(loss_of, args))(parameters, inputs, targets)
        updates, moments = optimizer.update(gradients, moments, parameters)
        return (optax.apply_updates(parameters, updates), moments), loss

    parameters = initial_parameters(args)
    count = sum(each.size for each in jax.tree.leaves(parameters))
    state = parameters, optimizer.init(parameters)
    del parameters

    def step(inputs, targets):
        nonlocal state
        state, loss = jax.block_until_ready(update(state, inputs, targets))
        return loss

    steps.serve(args, count, step)


if __name__ == "__main__":
    main()
