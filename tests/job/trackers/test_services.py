"""Weights & Biases and MLflow themselves, without a network: their own readers find what the run stored, once."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from job import layout
from job.storage.folder import RunFolder
from tests.job.small_run import arguments, folder_of
from tests.job.trackers.reading import MEMBERS, stored
from tests.lora_job import lora_job
