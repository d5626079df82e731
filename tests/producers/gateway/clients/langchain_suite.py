"""LangChain's own tests of a chat model, for `ChatOpenAI` at the gateway.

Those about tools ask a small trained model, which `TOOLS_MODEL` names.
"""

import os
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


class CallsWhatItMust(ChatOpenAI):
    """A small model seldom calls a tool by itself, and makes up arguments."""

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **options: Any) -> Any:
        return super().bind_tools(tools, tool_choice=tool_choice or "any", **{"strict": True, **options})


class TestTrained(TestChat):
    """Tools by chat completions."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return CallsWhatItMust

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return super().chat_model_params | {"model": os.environ["TOOLS_MODEL"]}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": 120}

    @property
    def has_tool_calling(self) -> bool:
        return True


class TestTrainedByResponses(TestTrained):
    """The same by responses."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        model = os.environ["TOOLS_MODEL"]
        return {"model": model, "use_responses_api": True, "stream_usage": True, "max_retries": 0}
