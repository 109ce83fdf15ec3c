"Packaging of moca: every value comes from settings.ini, nothing is written twice."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
parser = ConfigParser(delimiters=["="])
parser.read(ROOT/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
readme = ROOT/"README.md"
statuses = ["1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta", "5 - Production/Stable", "6 - Mature", "7 - Inactive"]
first, last = (int(cfg[k].split(".")[1]) for k in ("min_python", "max_python"))

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else cfg["description"],
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license=cfg["license"],
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    classifiers=[
        f"Development Status :: {statuses[int(cfg['status']) - 1]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(first, last + 1)),
    ],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["moca", "moca.*"]),
    package_data={"moca": ["assets/**", "py.typed"]},  # the corpus, the weights and their notices
    include_package_data=False,
    zip_safe=False,
    install_requires=cfg["requirements"].split(),
    extras_require={k: cfg[f"{k}_requirements"].split() for k in ("dev", "st", "lora", "pdf", "ann", "eval", "apps", "docs")},
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": ["moca=moca._modidx:d"]},
)
