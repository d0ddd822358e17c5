"""Params of a base model in 4, 8 or 16 bits, as tests load one."""

from pricer.params import Quantization


def quantization(bits: int, *, double_quant: bool = True) -> Quantization:
    return Quantization(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
    )
