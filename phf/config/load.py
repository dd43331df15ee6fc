"""Reads a configuration.

YAML files are merged over the schema's defaults from left to right, then `key=value` overrides. Reading is
strict: a key that is not in the schema is an error that names the nearest one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from phf.base.errors import ConfigError
from phf.base.files import is_file, is_folder
from phf.config.evaluation import default_scenarios
from phf.config.fields import facts_of, finish
from phf.config.grids import Grids, expand_grids, take_grids
from phf.config.options import first_line, unknown_key
from phf.config.schema import Config
from phf.config.upgrade import renamed, upgrade

_SUFFIXES = (".yaml", ".yml")


def load_config(arguments: Iterable[str | Mapping[str, Any]], base: Config | None = None) -> Config:
    """Merges configuration files and overrides, left to right, over the defaults.

    Options belong to their owner: a layer that names another scorer, objective, architecture, ... drops the
    options that earlier layers gave.

    Args:
        arguments: Each is a YAML file (by path, or by its path within the shipped `configs/`), a `key=value`
            override, or a nested mapping.
        base: The configuration to start from instead of the schema's defaults.

    Raises:
        ConfigError: A file cannot be read, a key is not in the schema, or a value is out of its bounds.
    """
    base = base or Config()
    config = OmegaConf.structured(base)
    if base.evaluation.scenarios == default_scenarios():
        config.evaluation.scenarios = {}  # any scenario that is named replaces the default ones
    files: list[tuple[str, DictConfig]] = []
    overrides: list[tuple[str, DictConfig]] = []
    for argument in arguments:
        if isinstance(argument, Mapping):
            overrides.append(("the settings given", OmegaConf.create(dict(argument))))
        elif is_config_file(argument):
            files.append((argument, _read_yaml(argument)))
        elif "=" in argument:
            try:
                overrides.append((argument, OmegaConf.from_dotlist([_as_yaml(argument)])))
            except (OmegaConfBaseException, YAMLError) as error:
                raise ConfigError(f"{_shown(argument)}: {first_line(error)}") from error
        else:
            raise ConfigError(
                f"{_shown(argument)}: neither a YAML file (.yaml, .yml) nor a key=value override"
            )
    grids: Grids = {}
    # Each file is a layer. All overrides form one layer, so that their order does not matter.
    for layers in [*([file] for file in files), overrides]:
        for _, layer in layers:
            _drop_options(config, layer)
            _prepare_scenarios(config, layer)
        for source, layer in layers:
            take_grids(layer, grids)
            try:
                config = OmegaConf.merge(config, layer)
            except ConfigKeyError as error:
                now = renamed(str(error.full_key))
                reason = f"{error.full_key} is {now} now" if now else unknown_key(error)
                raise ConfigError(f"{_shown(source)}: {reason}") from error
            except OmegaConfBaseException as error:
                raise ConfigError(f"{_shown(source)}: {_problem(error)}") from error
    try:
        expand_grids(config, grids)
        resolved = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(_problem(error)) from error
    assert isinstance(resolved, Config)
    finish(resolved)
    return resolved


def load_run_config(folder: Path) -> Config | None:
    """Loads the configuration that a run folder keeps; `None` if the folder keeps none.

    Raises:
        ConfigError: The configuration cannot be read.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    kept = cast("dict[str, Any]", OmegaConf.to_container(_read_yaml(str(path))))
    try:
        return load_config([upgrade(kept)])
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix('the settings given: ')}") from error


def to_yaml(config: Config) -> str:
    """Returns the configuration as YAML, from which `load_config` makes an equal configuration."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def is_config_file(argument: str) -> bool:
    """Whether a command-line argument is a YAML file, and not an override or a folder."""
    return argument.endswith(_SUFFIXES) and ("=" not in argument or is_file(argument))


def find_config(name: str) -> Path:
    """Finds a shipped file of `configs/`, in a clone or inside the installed package.

    Raises:
        ConfigError: There is no such file.
    """
    package = Path(__file__).parent.parent
    for folder in (package / "configs", package.parent / "configs"):
        if is_file(folder / name):
            return folder / name
    raise ConfigError(f"no configuration file configs/{name} in {package.parent}")


def _drop_options(config: Any, layer: Any) -> None:
    """Empties options whose owner a layer replaces, because the new owner would not understand them."""
    if not isinstance(config, DictConfig) or config._is_none() or not isinstance(layer, DictConfig):
        return
    schema = OmegaConf.get_type(config)
    belonging = _belonging(schema) if is_dataclass(schema) else {}
    for options, name in belonging.items():
        named = OmegaConf.select(layer, name, throw_on_resolution_failure=False)
        if isinstance(named, str) and named != config[name]:
            config[options] = {}
    for key in layer:
        if key in config and not OmegaConf.is_missing(layer, key):
            _drop_options(config._get_node(key), layer._get_node(key))


def _belonging(schema: Any) -> dict[str, str]:
    """Maps each field of a dataclass that holds options to the field that names their owner."""
    return {one.name: of for one in fields(schema) if (of := facts_of(one).belongs_to) is not None}


def _prepare_scenarios(config: DictConfig, layer: DictConfig) -> None:
    """Removes scenarios that a layer sets to null, and prompts that it replaces.

    Replaced prompts are removed because two kinds of prompts cannot be merged.
    """
    scenarios = OmegaConf.select(layer, "evaluation.scenarios", throw_on_resolution_failure=False)
    for name, scenario in list((scenarios or {}).items()):
        if scenario is None:
            config.evaluation.scenarios.pop(name, None)
            del scenarios[name]
        prompts = scenario.get("prompts") if isinstance(scenario, DictConfig) else None
        only_options = isinstance(prompts, DictConfig) and not {"dataset", "heldout"} & set(prompts)
        if prompts is not None and not only_options and name in config.evaluation.scenarios:
            config.evaluation.scenarios[name].prompts = None


def _as_yaml(override: str) -> str:
    """Rewrites an override so that YAML reads the value as the user meant it."""
    key, _, value = override.partition("=")
    if value.startswith("*"):  # a glob, not a YAML alias
        return f"{key}={json.dumps(value)}"
    if re.fullmatch(r"\d+(\.\d*)?[eE]\+?\d+", value) and float(value).is_integer():  # 1e9 tokens
        return f"{key}={int(float(value))}"
    if re.fullmatch(r"\d+(:\d+)+", value):  # a time, not one of YAML's base-60 numbers
        return f"{key}={json.dumps(value)}"
    return override


def _read_yaml(path: str) -> DictConfig:
    try:
        loaded = OmegaConf.load(_found(path))
    except FileNotFoundError:
        raise ConfigError(f"{_shown(path)}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_shown(path)}: cannot be read: {first_line(error)}") from error
    except YAMLError as error:
        place = f" (line {error.problem_mark.line + 1})" if getattr(error, "problem_mark", None) else ""
        raise ConfigError(
            f"{_shown(path)}{place}: not valid YAML: {getattr(error, 'problem', None) or first_line(error)}"
        ) from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{_shown(path)}: must hold keys and values, not {type(loaded).__name__}")
    return loaded


def _found(path: str) -> str | Path:
    """Returns the path as given if the file exists, and otherwise the shipped file of that name."""
    if is_file(path) or Path(path).is_absolute():
        return path
    try:
        return find_config(path.removeprefix("configs/"))
    except ConfigError:
        return path


def _problem(error: OmegaConfBaseException) -> str:
    """Describes what is wrong with a value, and where."""
    reason = first_line(error)
    if found := re.search(r" is not a subclass of \w+\. value: (.*)", reason):
        reason = f"a section cannot be {_shown(found[1])}; `phf help KEY` shows its keys"
    return f"{error.full_key}: {reason}" if error.full_key else reason


def _shown(text: str) -> str:
    """Shortens the user's input so that it fits into a one-line message."""
    return text if len(text) <= 200 else f"{text[:200]}..."


def split_folders(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits arguments into folders and configuration (YAML files and overrides)."""
    rest = [a for a in arguments if a.endswith(_SUFFIXES) or ("=" in a and not is_folder(a))]
    return [argument for argument in arguments if argument not in rest], rest
