"""LangChain's own tests of a chat model, for `ChatOpenAI` at the gateway."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestChat(ChatModelIntegrationTests):
    """Chat completions. What a property says isn't there is skipped by LangChain itself."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "demo", "seed": 1, "stream_usage": True, "max_retries": 0}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 48}

    @property
    def model_override_value(self) -> str:
        return "demo"

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False


class TestResponses(TestChat):
    """The same by responses."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "demo", "use_responses_api": True, "stream_usage": True, "max_retries": 0}
