"""A setting, refusal code or header that the reference pages do not list fails here."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
HEADER = re.compile(r"x-nullspend-[a-z-]+", re.IGNORECASE)


def source_of(*packages: str) -> str:
    return "\n".join(path.read_text() for package in packages for path in sorted((ROOT / package).rglob("*.py")))


def test_every_setting_is_documented() -> None:
    from control_plane.settings import Settings  # noqa: PLC0415 - only this test needs the control plane

    named = set(re.findall(r'"(NULLSPEND_[A-Z_]*[A-Z])"', source_of("control_plane", "data_plane", "deploy")))
    named |= {f"NULLSPEND_{field.upper()}" for field in Settings.model_fields}
    page = (REFERENCE / "settings.md").read_text()
    assert {name for name in named if f"`{name}`" not in page} == set()


def test_every_documented_setting_exists() -> None:
    from control_plane.settings import Settings  # noqa: PLC0415 - as above

    source = source_of("control_plane", "data_plane", "deploy")
    fields = {f"NULLSPEND_{field.upper()}" for field in Settings.model_fields}
    listed = set(re.findall(r"`(NULLSPEND_[A-Z_]+)`", (REFERENCE / "settings.md").read_text()))
    assert {name for name in listed if name not in source and name not in fields} == set()


def test_every_refusal_code_of_the_proxy_is_documented() -> None:
    source = source_of("data_plane", "shared")
    codes = set(re.findall(r'(?:Refusal|Denial|GatewayFailure)\(\s*\d{3},\s*"([a-z_]+)"', source))
    codes |= set(re.findall(r'Unavailable\(\s*"([a-z_]+)"', source))
    codes |= set(re.findall(r'\d{3}, "([a-z_]+)", ', source))
    assert len(codes) > 10
    page = (REFERENCE / "errors.md").read_text()
    assert {code for code in codes if f"`{code}`" not in page} == set()


def test_every_header_is_documented() -> None:
    headers = {header.lower() for header in HEADER.findall(source_of("data_plane")) if not header.endswith("-")}
    assert len(headers) > 15
    listed = {header.lower() for header in HEADER.findall((REFERENCE / "headers.md").read_text())}
    assert headers - listed == set()
