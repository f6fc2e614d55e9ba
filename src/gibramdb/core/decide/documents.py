"""Decisions about documents."""

from __future__ import annotations

from gibramdb.core import limits as weights
from gibramdb.core.decide.admission import Decision, Moment, check_memory, check_quota, in_bulk, require_found
from gibramdb.core.state import SessionState
from gibramdb.core.titles import is_blank
from gibramdb.errors import AlreadyExistsError, CallerError, InvalidArgumentError, StillReferencedError
from gibramdb.model.commands import AddDocuments, DeleteDocument
from gibramdb.model.knowledge import Document, NewDocument
from gibramdb.model.mutations import DocumentDeleted, DocumentsAdded
from gibramdb.model.results import Created, Done


def add(moment: Moment, command: AddDocuments) -> Decision:
    """All or none; per item: external id given, then free; then the quotas."""
    session, opens = moment.session_or_new(command.session_id)
    first_id = session.documents.next_id
    documents: list[Document] = []
    seen: set[str] = set()
    index = 0
    try:
        for index, new in enumerate(command.documents):
            _check(session, new, seen)
            seen.add(new.external_id)
            documents.append(Document(first_id + index, new.external_id, new.filename, moment.now_ms))
        index = 0
        limits = moment.limits
        check_quota(len(session.documents), len(documents), limits.session_documents_max, "document")
        if limits.weighs:
            check_memory(moment, session, sum(map(weights.document_bytes, documents)))
    except CallerError as cause:
        raise (in_bulk("documents", index, cause) if command.bulk else cause) from None
    ids = tuple(document.id for document in documents)
    return DocumentsAdded(command.session_id, moment.now_ms, opens, tuple(documents)), Created(ids, command.bulk)


def _check(session: SessionState, new: NewDocument, seen: set[str]) -> None:
    if is_blank(new.external_id):
        raise InvalidArgumentError("document external_id is required")
    if new.external_id in session.documents_by_external_id:
        raise AlreadyExistsError(f"document with external_id {new.external_id} already exists")
    if new.external_id in seen:
        raise AlreadyExistsError(f"document with external_id {new.external_id} already exists in bulk request")


def delete(moment: Moment, command: DeleteDocument) -> Decision:
    """Refused while text units belong to it."""
    session = moment.session(command.session_id)
    require_found(session.documents.get(command.id), "document", command.id)
    if command.id in session.textunits_by_document:
        raise StillReferencedError(f"document {command.id} has dependent text units")
    return DocumentDeleted(command.session_id, moment.now_ms, opens=False, id=command.id), Done(command.id)
