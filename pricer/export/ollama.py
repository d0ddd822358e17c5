"""What Ollama needs to serve a GGUF file: prompts as they are, the likeliest price, and no more."""

from pricer.prices.record import ServingRecord

GGUF_NAME = "prices.gguf"


def modelfile(settings: ServingRecord) -> str:
    """Return the Modelfile of a GGUF file that lies beside it.

    No template changes the prompt, and decoding is greedy, as `predict.point: greedy`.
    """
    return "\n".join(
        [
            f"FROM ./{GGUF_NAME}",
            'TEMPLATE """{{ .Prompt }}"""',
            "PARAMETER temperature 0",
            f"PARAMETER num_predict {settings.max_new_tokens}",
            'PARAMETER stop "\\n"',
            "",
        ]
    )
