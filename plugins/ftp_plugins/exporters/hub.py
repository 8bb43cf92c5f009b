"""Another export, uploaded to the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

import ftp
from ftp.files import first_line
from ftp_plugins.exporters.merged import Merged


class Hub(ftp.Exporter):
    """Creates a repository on the Hugging Face hub and uploads another export with its model card, if it is proven.

    The token is the one that `hf auth login` keeps, or HF_TOKEN; it is written nowhere.
    """

    requires: ClassVar[tuple[str, ...]] = ("huggingface_hub",)

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """The repository, ORGANISATION/NAME."""
    format: ftp.Exporter = Merged()
    """The export to upload: `{use: merged}`, `{use: adapter}`, `{use: gguf, type: Q8_0}`."""
    private: bool = True
    """Whether a repository that is created is private. One that is there stays as it is."""

    def problems(self) -> list[str]:
        if isinstance(self.format, Hub):
            return ["format: an upload can't be uploaded; name another format"]
        return self.format.problems()

    def cross_problems(self, recipe: Any) -> list[str]:
        return self.format.cross_problems(recipe)

    @property
    def weights(self) -> ftp.Weights:
        return self.format.weights

    def usual_proof(self) -> ftp.Proof:
        given, usual = self.format.proof, self.format.usual_proof()
        return usual.model_copy(update={k: v for k, v in given if v is not None and k in given.model_fields_set})

    def rehearse(self, base: ftp.LoadedModel, whole: bool) -> int:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

        try:
            HfApi().whoami()
        except LocalTokenNotFoundError:
            raise ftp.ModelError("there is no token for the hub: `hf auth login` keeps one, or set HF_TOKEN") from None
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
            raise ftp.ModelError(f"the hub doesn't let you in: {first_line(error)}") from None
        return self.format.rehearse(base, whole)

    def export(self, job: ftp.ExportJob) -> Path:
        return self.format.export(job)

    def reopen(self, job: ftp.ExportJob, path: Path) -> ftp.Exported:
        return self.format.reopen(job, path)

    def finish(self, job: ftp.ExportJob, path: Path, record: Mapping[str, Any]) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        self.format.finish(job, path, record)
        if not record["proven"]:
            job.note(f"Not proven, so it isn't uploaded to {self.repo}")
            return
        api = HfApi()
        try:
            api.create_repo(self.repo, private=self.private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=self.repo, folder_path=job.directory, commit_message=f"FTP run {record['run']}"
            )
        except (HfHubHTTPError, OSError, RuntimeError) as error:  # a RuntimeError where a file of weights breaks off
            reason = first_line(error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error)
            raise ftp.ModelError(
                f"{self.repo}: can't be uploaded: {reason}; the export is complete in {job.run.directory / 'exports'}"
            ) from None
        uploaded = {"repo": self.repo, "commit": commit.oid, "url": commit.commit_url}
        (job.directory / "hub.json").write_text(json.dumps(uploaded, indent=2) + "\n", encoding="utf-8")
        job.note(f"Uploaded: {commit.commit_url}")
