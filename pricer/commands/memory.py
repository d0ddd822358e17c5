"""How much memory training takes, from shapes alone. All of it is arithmetic, in bytes."""

from dataclasses import dataclass

GIB = 2**30
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
# on a CPU: 0.7 for Python and the libraries, 0.5 that malloc keeps of what was freed (measured with
# SmolLM2-135M's shape); on a GPU, a rule of thumb for a CUDA context and cuBLAS' workspace
CPU_RUNTIME = int(1.25 * GIB)
CUDA_CONTEXT = int(0.6 * GIB)
# tokens of a completion, the one that ends the text included, where digits are tokens of their
# own: "219.00"; tokenizers with longer tokens need fewer
COMPLETION = 7


@dataclass(frozen=True)
class Shape:
    """What the memory of a model with an adapter follows from.

    Attributes:
        linear: weights of all linear layers but the output layer: what bitsandbytes quantizes.
        linear_rows: their outputs, summed.
        linear_layers: how many they are.
        largest_linear: weights of the largest of them.
        other: all other parameters, tied ones once.
        layers: of the decoder.
        hidden: width of the residual stream.
        intermediate: width inside an MLP.
        heads: that ask, in each layer.
        head_dim: width of one.
        vocabulary: tokens that are told apart.
        adapter: trainable parameters.
        adapted_widths: inputs plus rank of all layers with an adapter, summed.
    """

    linear: int
    linear_rows: int
    linear_layers: int
    largest_linear: int
    other: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    head_dim: int
    vocabulary: int
    adapter: int
    adapted_widths: int


@dataclass(frozen=True)
class Recipe:
    """What else the memory of training follows from.

    Attributes:
        bits: of the linear layers: 4, 8, or anything else for no quantization.
        double_quant: whether the constants of 4 bits are quantized too.
        dtype: compute type: bfloat16, float16 or float32.
        optim: `train.optim`.
        batch: examples of a forward pass.
        length: tokens of each, with its completion.
        dropout: whether `lora_dropout` is above 0.
        checkpointing: compute layers again in the backward pass.
        fused: attention in one kernel, as on a GPU.
    """

    bits: int
    double_quant: bool
    dtype: str
    optim: str
    batch: int
    length: int
    dropout: bool
    checkpointing: bool
    fused: bool


def weight_bytes(shape: Shape, *, bits: int, width: int) -> int:
    """Return the bytes of the base weights: what `get_memory_footprint()` counts of a loaded model.

    bitsandbytes quantizes linear layers; embeddings, norms and the output layer are not.

    Args:
        shape: the model.
        bits: 4, 8, or anything else for no quantization.
        width: bytes of a number that is not quantized.
    """
    linear = shape.linear * bits // 8 if bits in (4, 8) else shape.linear * width
    return linear + shape.other * width


def constant_bytes(shape: Shape, *, bits: int, double_quant: bool) -> int:
    """Return the bytes of the quantization constants, which `get_memory_footprint()` leaves out.

    4 bits: one constant for each 64 weights, in float32, 0.5 bits a weight; with double
    quantization in 8 bits, with one float32 for each 256 constants, 0.127 bits a weight. Each layer
    holds its code book of 16 numbers, and the one of the constants, 256 numbers and an offset.
    8 bits: a float32 for each row.

    Source: Dettmers et al. (2023), QLoRA, section 3; bitsandbytes' QuantState and Int8Params.
    """
    if bits == 8:
        return 4 * shape.linear_rows
    if bits != 4:
        return 0
    blocks = shape.linear // 64
    if double_quant:
        return blocks + 4 * (blocks // 256) + shape.linear_layers * 4 * (16 + 256 + 1)
    return 4 * blocks + shape.linear_layers * 4 * 16


def optimizer_bytes(parameters: int, optim: str) -> int:
    """Return the bytes of AdamW's two moments, in float32 or in 8 bits.

    In 8 bits each moment has one float32 for each 256 numbers. Paged ones take the same, but may
    leave the GPU for a while.

    Source: Dettmers et al. (2022), 8-bit Optimizers via Block-wise Quantization, section 2.
    """
    if optim.endswith("8bit"):
        return 2 * (parameters + 4 * (parameters // 256))
    return 2 * 4 * parameters


def activation_bytes(
    shape: Shape,
    *,
    batch: int,
    length: int,
    width: int,
    dropout: bool,
    checkpointing: bool,
    fused: bool,
) -> int:
    """Return the bytes that the backward pass needs of a forward pass, the logits aside.

    For each token and layer of a decoder in the manner of Llama, with frozen weights: the residual
    stream in float32 for both norms; the input and the low-rank values of each layer with an
    adapter; three widths of the MLP (gate before and after its activation, up); of the attention
    queries, keys and values, and either its outputs and sums (fused) or its probabilities in
    float32 and in the compute type. Dropout keeps a mask of each adapter's input, in bytes on a
    GPU, in the compute type on a CPU, where the last layer computes next to nothing but attention.
    With checkpointing the residual stream alone is kept, and one layer at a time computed again.

    Source: counted in what autograd saves, in the manner of Korthikanti et al. (2022), Reducing
    Activation Recomputation in Large Transformer Models, section 4; compared with it in the tests.

    Args:
        shape: the model with its adapter.
        batch: examples.
        length: tokens of each.
        width: bytes of a number in the compute type.
        dropout: whether `lora_dropout` is above 0.
        checkpointing: compute layers again in the backward pass.
        fused: attention in one kernel, as on a GPU, or written out, as on a CPU.
    """
    attention = shape.heads * shape.head_dim * width
    if fused:
        attention = 4 * attention + 4 * shape.heads
    else:
        attention = 3 * attention + shape.heads * length * (4 + width)
    up_to_attention = 2 * 4 * shape.hidden + attention
    layer = up_to_attention + 3 * shape.intermediate * width
    mask = (1 if fused else width) if dropout else 0
    adapted = shape.adapted_widths * (width + mask)
    tokens = batch * length
    if checkpointing:
        kept = shape.layers * shape.hidden * width
        return tokens * (kept + layer + adapted // shape.layers)
    if fused:
        return tokens * (shape.layers * layer + adapted)
    return tokens * ((shape.layers - 1) * (layer + adapted // shape.layers) + up_to_attention)


def logit_bytes(shape: Shape, *, batch: int, completion: int, width: int) -> int:
    """Return the bytes of logits at completion positions and at the last of the prompt.

    In the compute type, in float32 their logarithms after softmax, and the gradient of those.
    """
    return batch * (completion + 1) * shape.vocabulary * (width + 4 + 4)


def training_bytes(shape: Shape, recipe: Recipe) -> dict[str, int]:
    """Return what training takes at its peak, by part, in bytes."""
    width = WIDTHS[recipe.dtype]
    return {
        "base weights": weight_bytes(shape, bits=recipe.bits, width=width),
        "quantization constants": constant_bytes(
            shape, bits=recipe.bits, double_quant=recipe.double_quant
        ),
        "adapter, float32": 4 * shape.adapter,
        "gradients": 4 * shape.adapter,
        f"optimizer, {recipe.optim}": optimizer_bytes(shape.adapter, recipe.optim),
        "activations": activation_bytes(
            shape,
            batch=recipe.batch,
            length=recipe.length,
            width=width,
            dropout=recipe.dropout,
            checkpointing=recipe.checkpointing,
            fused=recipe.fused,
        ),
        "logits": logit_bytes(shape, batch=recipe.batch, completion=COMPLETION, width=width),
        # the adapter in the compute type, and the largest layer's weights as they are multiplied
        "working copies": width * (shape.adapter + shape.largest_linear),
        **({"CUDA context": CUDA_CONTEXT} if recipe.fused else {"libraries, malloc": CPU_RUNTIME}),
    }
