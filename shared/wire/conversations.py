"""Conversations as clients see them, and the bodies of their endpoints."""

import msgspec

NULL = msgspec.Raw(b"null")


class ConversationRef(msgspec.Struct):
    """The ``conversation`` of a response; in a create call it may also be the id alone."""

    id: str


class Conversation(msgspec.Struct, tag_field="object", tag="conversation"):
    """``created_at`` is Unix seconds."""

    id: str
    created_at: int
    metadata: dict[str, str]


class ConversationDeleted(msgspec.Struct, tag_field="object", tag="conversation.deleted"):
    id: str
    deleted: bool = True


class CreateConversationBody(msgspec.Struct):
    """``items`` stays raw: ``api.items`` decodes its members one by one."""

    metadata: dict[str, str] | None = None
    items: msgspec.Raw = NULL


class UpdateConversationBody(msgspec.Struct):
    """``metadata`` replaces what there was; null empties it."""

    metadata: dict[str, str] | None


class AddItemsBody(msgspec.Struct):
    items: msgspec.Raw
