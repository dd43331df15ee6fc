"""Reading a configuration.

YAML files are merged over the schema's defaults from left to right, then `key=value` overrides. It is strict:
a key that is not in the schema is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from phf.base.errors import ConfigError
from phf.config.evaluation import default_scenarios
from phf.config.grids import Grids, expand_grids, take_grids
from phf.config.schema import Config


def load_config(arguments: Iterable[str | Mapping[str, Any]], base: Config | None = None) -> Config:
    """Merges configuration files and overrides, left to right, over the defaults.

    Who names another scorer begins with none of the options of the one before.

    Args:
        arguments: Each a YAML file, a `key=value` override, or a nested mapping.
        base: What to start from instead of the schema's defaults.

    Raises:
        ConfigError: A file cannot be read, a key is not in the schema, or a value is out of its range.
    """
    base = base or Config()
    config = OmegaConf.structured(base)
    if base.evaluation.scenarios == default_scenarios():
        config.evaluation.scenarios = {}  # it gives way to any that is named
    files: list[tuple[str, DictConfig]] = []
    overrides: list[tuple[str, DictConfig]] = []
    for argument in arguments:
        if isinstance(argument, Mapping):
            overrides.append(("the settings given", OmegaConf.create(dict(argument))))
        elif argument.endswith((".yaml", ".yml")) and ("=" not in argument or Path(argument).is_file()):
            files.append((argument, _read_yaml(argument)))
        elif "=" in argument:
            try:
                overrides.append((argument, OmegaConf.from_dotlist([_as_yaml(argument)])))
            except (OmegaConfBaseException, YAMLError) as error:
                raise ConfigError(f"{argument}: {_first_line(error)}") from error
        else:
            raise ConfigError(f"{argument}: neither a YAML file (.yaml, .yml) nor a key=value override")
    grids: Grids = {}
    # Each file by itself, and overrides together: they may stand in any order.
    for layers in [*([file] for file in files), overrides]:
        _let_options_go(config, [layer for _, layer in layers])
        _let_prompts_go(config, [layer for _, layer in layers])
        for source, layer in layers:
            take_grids(layer, grids)
            try:
                config = OmegaConf.merge(config, layer)
            except ConfigKeyError as error:
                raise ConfigError(f"{source}: {_unknown_key(error)}") from error
            except OmegaConfBaseException as error:
                raise ConfigError(f"{source}: {error.full_key or '?'}: {_first_line(error)}") from error
    try:
        expand_grids(config, grids)
        resolved = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or '?'}: {_first_line(error)}") from error
    assert isinstance(resolved, Config)
    return resolved


def _let_options_go(config: DictConfig, layers: Iterable[DictConfig]) -> None:
    """Empties the options of the scorer if a layer names another, to which they mean nothing."""
    for layer in layers:
        name = OmegaConf.select(layer, "scorer.name", throw_on_resolution_failure=False)
        if isinstance(name, str) and name != config.scorer.name:
            config.scorer.options = {}


def _let_prompts_go(config: DictConfig, layers: Iterable[DictConfig]) -> None:
    """Empties the prompts of a scenario for which a layer has others: two kinds of them cannot be merged."""
    for layer in layers:
        scenarios = OmegaConf.select(layer, "evaluation.scenarios", throw_on_resolution_failure=False)
        for name, scenario in (scenarios or {}).items():
            prompts = scenario.get("prompts") if isinstance(scenario, DictConfig) else None
            options = isinstance(prompts, DictConfig) and not {"dataset", "heldout"} & set(prompts)
            if prompts is not None and not options and name in config.evaluation.scenarios:
                config.evaluation.scenarios[name].prompts = None


def to_yaml(config: Config) -> str:
    """The configuration as YAML that `load_config` reads back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def find_config(name: str) -> Path:
    """The path of a file of `configs/`, in a clone or inside the installed package.

    Raises:
        ConfigError: There is no such file.
    """
    package = Path(__file__).parent.parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"no configuration file configs/{name} in {package.parent}")


def _as_yaml(override: str) -> str:
    """The override as YAML understands it."""
    key, _, value = override.partition("=")
    if value.startswith("*"):  # a pattern of files, and not a reference
        return f"{key}={json.dumps(value)}"
    if re.fullmatch(r"\d+(\.\d*)?[eE]\+?\d+", value) and float(value).is_integer():  # 1e9 tokens
        return f"{key}={int(float(value))}"
    if re.fullmatch(r"\d+(:\d+)+", value):  # a time, and not YAML's number to the base 60
        return f"{key}={json.dumps(value)}"
    return override


def _read_yaml(path: str) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {_first_line(error)}") from error
    except YAMLError as error:
        place = f" (line {error.problem_mark.line + 1})" if getattr(error, "problem_mark", None) else ""
        raise ConfigError(
            f"{path}{place}: not valid YAML: {getattr(error, 'problem', None) or _first_line(error)}"
        ) from error
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path}: must hold keys and values, not {type(loaded).__name__}")
    return loaded


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _unknown_key(error: ConfigKeyError) -> str:
    """Names the key that the schema lacks, and the nearest one it has there."""
    known = [field.name for field in fields(error.object_type)] if is_dataclass(error.object_type) else []
    nearest = difflib.get_close_matches(str(error.key), known, n=1, cutoff=0.5)
    section = str(error.full_key).rpartition(".")[0]
    hint = f"; did you mean {section}{'.' if section else ''}{nearest[0]}?" if nearest else ""
    return f"no key {error.full_key}{hint}"
