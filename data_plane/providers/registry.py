"""Every dialect by its name. A new one is a module and a line here."""

from collections.abc import Mapping
from typing import Final

from data_plane.providers.anthropic import Anthropic
from data_plane.providers.dialect import Dialect
from data_plane.providers.gemini import Gemini
from data_plane.providers.openai_chat import OpenAIChat

DIALECTS: Final[Mapping[str, Dialect]] = {dialect.name: dialect for dialect in (OpenAIChat(), Anthropic(), Gemini())}
