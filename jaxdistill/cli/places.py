"""Where a command is to write: found to be right before it does anything."""

from jaxdistill.cli.ending import writing


def check_file(path: str, *kinds: str) -> None:
  """Refuses an `--out` that cannot be written, or that is something else."""
  from etils import epath

  from jaxdistill.config import ConfigError
  from jaxdistill.storage import check_writable, is_remote

  file = epath.Path(path)
  if file.suffix not in kinds:
    raise ConfigError(f'--out {path} must end in {" or ".join(kinds)}')
  if file.is_dir():
    raise ConfigError(f'--out {path} is a folder')
  if not is_remote(file) and not file.parent.exists():
    raise ConfigError(f'--out {path}: there is no folder {file.parent}')
  with writing(f'--out {path}'):
    check_writable(file.parent)


def check_new_folder(path: str) -> None:
  """Refuses a `--to` that has something in it, or that cannot be made."""
  from etils import epath

  from jaxdistill.config import ConfigError
  from jaxdistill.storage import check_store, check_writable

  with writing(f'--to {path}'):
    check_store(path)
  target = epath.Path(path)
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise ConfigError(f'--to {path} is there already; choose another')
  with writing(f'--to {path}'):
    check_writable(path)
