"""Tokens and settings from `.env`, for whoever does not keep them in the environment."""

from dotenv import find_dotenv, load_dotenv

from pricer.errors import PricerError


def load_environment() -> None:
    """Read the `.env` of the current folder, or of one above it; the environment wins over it.

    To be called before a library reads the environment.

    Raises:
        PricerError: the file is not text.
    """
    file = find_dotenv(usecwd=True)
    try:
        load_dotenv(file)
    except UnicodeDecodeError as error:
        raise PricerError(
            f"{file} is not UTF-8 text (byte {error.start}): .env.example shows its form"
        ) from None
