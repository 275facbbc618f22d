"""Trained rules on the Hugging Face Hub."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from learned_opt.card import model_card
from learned_opt.checkpoint import CARD, Checkpoint, load_checkpoint, save_checkpoint


def push_to_hub(
    rule: Checkpoint | str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a trained rule to a repository of the Hugging Face Hub, which is made if need be.

    Needs ``pip install 'learned-opt[hub]'``. Nothing of this package ever downloads: who wants to use the
    rule fetches the folder with ``huggingface_hub.snapshot_download(repo_id)`` and gives it to
    `LearnedOptimizer.from_pretrained`. The model card in the repository says so.

    Args:
        rule: A checkpoint, the folder of one, or the name of a shipped one. The configuration, the weights
            and a model card are uploaded, and nothing else that the folder may hold.
        repo_id: ``user/name`` or ``organisation/name``.
        license: Of the weights, as the Hub abbreviates it, ``"apache-2.0"``; kept among the facts.
        private: Of a repository that is made now; by default as the account is set up.
        token: Write access; by default what ``hf auth login`` has stored.
        revision: Branch to commit to, made if need be; by default the main one.
        commit_message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        ImportError: If huggingface_hub is not installed.
        CheckpointError: If the rule cannot be loaded; nothing has been uploaded then.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.

    Example:
        >>> push_to_hub("runs/mine", "me/flt-mine", license="apache-2.0")
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ImportError(
            "push_to_hub needs huggingface_hub: pip install 'learned-opt[hub]'", name=error.name
        ) from error
    checkpoint = rule if isinstance(rule, Checkpoint) else load_checkpoint(rule)
    if license is not None:
        checkpoint = replace(checkpoint, facts={**checkpoint.facts, "license": license})
    with TemporaryDirectory() as name:
        folder = Path(name)
        config, meta, facts = checkpoint.config, checkpoint.meta, checkpoint.facts
        save_checkpoint(folder, config, meta, facts)
        (folder / CARD).write_text(model_card(repo_id, config, meta, facts, origin="hub"), encoding="utf-8")
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        message = commit_message or "Upload a learned optimizer"
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message
        )
    return commit.commit_url
