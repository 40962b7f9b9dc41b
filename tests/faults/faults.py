"""Faults planted by hand in what decides: the tests beside each must notice it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """A change of one place in the program that would harm a user."""

    id: str
    harm: str  # one sentence: what would go wrong
    file: str
    before: str  # occurs exactly once in the file
    after: str
    tests: tuple[str, ...]  # pytest's ids; few and quick


CHECKPOINTS, CACHE = "tests/job/run/test_checkpoints.py", "tests/job/run/test_cache.py"
VERIFY = "tests/job/run/test_verify.py"
LEASE, UNIT = "tests/job/run/test_lease.py", "tests/job/run/test_unit.py"
DECISIONS, IDENTITY = "tests/job/run/test_decisions.py", "tests/job/run/test_identity.py"
ADAPTERS = "tests/job/test_adapters.py"
LAYOUT, SHARDING, SHARED = "tests/job/test_layout.py", "tests/job/test_sharding.py", "tests/job/test_shared_run.py"
RESUME, FINISHED = "tests/job/stages/test_resume.py", "tests/job/stages/test_finished_pack.py"
CONTINUED, RETRY = "tests/job/test_continued_run.py", "tests/job/deploy/test_retry.py"
SILENT = "test_one_that_another_machine_holds_is_taken_only_once_it_was_silent_for_as_long_as_it_says"

_COMMITS = (
    Fault(
        "commit-before-data",
        "A kill during an upload leaves a commit without its files, and the next start takes it for a checkpoint.",
        "job/run/checkpoints.py",
        "    for entry in commit.files:\n        stored = run.upload(",
        '    run.write_stored(f"{root}/{layout.COMMIT_NAME}", commit)\n'
        "    for entry in commit.files:\n        stored = run.upload(",
        (f"{CHECKPOINTS}::test_a_file_that_is_not_what_was_written_gets_no_commit",),
    ),
    Fault(
        "upload-unchecked",
        "A file that changed on its way to the store is committed and cannot be loaded later.",
        "job/run/checkpoints.py",
        "if stored != Digest(entry.size, entry.sha256):",
        "if stored.size < 0:",
        (f"{CHECKPOINTS}::test_a_file_that_is_not_what_was_written_gets_no_commit",),
    ),
    Fault(
        "data-removed-before-commit",
        "A kill during a removal leaves a commit whose files are gone.",
        "job/run/checkpoints.py",
        '    run.delete(f"{root}/{layout.COMMIT_NAME}")\n    for key, _ in list(run.list(root)):',
        "    for key, _ in reversed(list(run.list(root))):",
        (f"{CHECKPOINTS}::test_a_removal_that_ends_half_way_leaves_no_commit_without_its_files",),
    ),
    Fault(
        "sizes-of-files-ignored",
        "A run whose last checkpoint was cut off is called trained, and the cut file is what the user loads.",
        "job/run/checkpoints.py",
        "return wanted.items() <= sizes.items()",
        "return wanted.keys() <= sizes.keys()",
        (f"{CHECKPOINTS}::test_whether_a_checkpoint_is_there_is_told_by_its_files",),
    ),
    Fault(
        "another-runs-checkpoint-is-believed",
        "A folder that was copied from another run is continued from, and the comparison is called fair.",
        "job/run/checkpoints.py",
        "    if commit.run_id != run_id:",
        "    if commit.run_id is None and run_id == '':",
        (
            f"{CHECKPOINTS}::test_a_checkpoint_of_another_run_or_adapter_is_not_there",
            f"{RESUME}::test_a_folder_that_was_copied_from_another_run_is_passed_over",
        ),
    ),
    Fault(
        "altered-records-are-believed",
        "A finished run whose metrics were edited is reported again, and the new report bears them out.",
        "job/report/publish.py",
        "    require_whole(run, Depth.RECORDS, check, is_source_of_report, scratch)\n",
        "",
        (f"{VERIFY}::test_an_altered_run_gets_no_new_report_that_bears_it_out",),
    ),
    Fault(
        "refused-start-fails-a-finished-run",
        "A start that is refused lets a finished run show up as failed.",
        "job/run/unit.py",
        "            if not writer.restore():\n                writer.write(",
        "            if writer is not None:\n                writer.write(",
        (f"{UNIT}::test_a_start_that_is_refused_leaves_the_status_of_a_finished_run_alone",),
    ),
    Fault(
        "fetched-file-unchecked",
        "Training continues from weights in which a bit has flipped.",
        "job/run/checkpoints.py",
        "path, Digest(entry.size, entry.sha256))",
        "path)",
        (
            f"{CHECKPOINTS}::test_a_file_is_fetched_only_as_its_commit_has_it",
            f"{RESUME}::test_a_damaged_checkpoint_is_passed_over_and_removed[flip]",
        ),
    ),
)

_LAYOUT = (
    Fault(
        "copy-of-a-folder-is-a-checkpoint",
        "A folder that somebody copied beside the checkpoints counts as one, and is continued from or chosen as best.",
        "job/layout.py",
        're.fullmatch(r"step-',
        're.match(r"step-',
        (
            f"{LAYOUT}::test_other_names_are_no_step",
            f"{CHECKPOINTS}::test_a_copy_of_a_folder_is_no_checkpoint",
        ),
    ),
    Fault(
        "steps-without-padding",
        "Checkpoints sort 10, 100, 20, and those of earlier versions are not found.",
        "job/layout.py",
        '"step-{step:06d}"',
        '"step-{step}"',
        (f"{LAYOUT}::test_names_of_steps_sort_as_the_steps_do", f"{LAYOUT}::test_a_step_is_read_from_its_name"),
    ),
    Fault(
        "two-seeds-share-a-folder",
        "The seeds of a variant overwrite each other's checkpoints.",
        "job/layout.py",
        "{of.variant}/seed-{of.seed}",
        "{of.variant}/seed",
        (f"{LAYOUT}::test_no_two_adapters_share_a_file",),
    ),
)

_RESUME = (
    Fault(
        "later-commits-stay",
        "A checkpoint of a training that was given up stays beside those of the one that replaced it.",
        "job/stages/train/resume.py",
        "            checkpoints.remove(run, member, later)",
        "            pass",
        (f"{RESUME}::test_a_pack_continues_from_the_newest_step_of_all_and_later_ones_are_removed",),
    ),
    Fault(
        "step-of-any-member",
        "A stop between the first checkpoints of two members makes every later start end with 46.",
        "job/stages/train/resume.py",
        "if all(min(step, end) in committed[member]",
        "if any(min(step, end) in committed[member]",
        (
            f"{RESUME}::test_a_first_checkpoint_that_only_one_member_has_is_made_anew",
            f"{RESUME}::test_a_pack_continues_from_the_newest_step_of_all_and_later_ones_are_removed",
        ),
    ),
    Fault(
        "continued-from-the-oldest",
        "A start throws all but the first checkpoint away.",
        "job/stages/train/resume.py",
        "set.union(*committed.values()), reverse=True)",
        "set.union(*committed.values()))",
        (f"{RESUME}::test_a_pack_continues_from_the_newest_step_of_all_and_later_ones_are_removed",),
    ),
    Fault(
        "damage-begins-anew",
        "Where all checkpoints are damaged, they are deleted and days of training begin again without a word.",
        "job/stages/train/resume.py",
        "if step == 0 and (common",
        "if step < 0 and (common",
        (f"{RESUME}::test_where_all_are_damaged_nothing_is_removed_and_nothing_begun_anew",),
    ),
    Fault(
        "best-is-collected",
        "The best checkpoint is deleted once it is no longer among the newest.",
        "job/stages/train/resume.py",
        "if step not in set(always):",
        "if step > 0:",
        (f"{RESUME}::test_the_newest_and_the_best_are_kept",),
    ),
    Fault(
        "newest-are-collected",
        "The oldest checkpoints are kept and the newest deleted.",
        "job/stages/train/resume.py",
        "for step in steps[:-keep]:",
        "for step in steps[keep:]:",
        (f"{RESUME}::test_the_newest_and_the_best_are_kept",),
    ),
    Fault(
        "rows-after-the-resumed-step-stay",
        "A run that was killed after it wrote rows and before it committed cannot be continued.",
        "job/stages/train/pack_run.py",
        " if row.step <= step]",
        "]",
        (f"{CONTINUED}::test_what_came_after_the_common_checkpoint_is_trained_and_scored_anew",),
    ),
    Fault(
        "scores-after-the-resumed-step-stay",
        "The report shows losses of weights that were given up, beside the weights that replaced them.",
        "job/stages/train/evaluation.py",
        "[row for row in rows if row.step <= until]",
        "list(rows)",
        (f"{CONTINUED}::test_what_came_after_the_common_checkpoint_is_trained_and_scored_anew",),
    ),
    Fault(
        "micro-batches-decided-anew",
        "A run that continues where other memory is free rounds otherwise than one that was never stopped.",
        "job/stages/train/pack_run.py",
        "        if stored is not None:\n            trainer.use",
        "        if stored is not None and stored.images < 1:\n            trainer.use",
        (f"{CONTINUED}::test_updates_are_cut_up_as_the_first_attempt_decided",),
    ),
    Fault(
        "rows-after-the-commit",
        "A kill between a commit and its rows leaves a run that ends with 46 for good.",
        "job/stages/train/checkpoint_writer.py",
        "            member = snapshot.member\n"
        "            self._attempt.run.write_jsonl(layout.metrics(member), (row.row() for row in snapshot.metrics))\n"
        "            self._attempt.tracking.metrics(self._attempt.run, member, snapshot.metrics)\n"
        "        for snapshot in snapshots:\n"
        "            self._publish_member(snapshot)\n",
        "            self._publish_member(snapshot)\n"
        "        for snapshot in snapshots:\n"
        "            member = snapshot.member\n"
        "            self._attempt.run.write_jsonl(layout.metrics(member), (row.row() for row in snapshot.metrics))\n",
        (f"{CONTINUED}::test_what_says_that_something_is_there_is_written_after_it",),
    ),
    Fault(
        "any-final-step-is-the-last",
        "A finished run that is given more steps trains none of them and says that it is done.",
        "job/stages/train/pack_run.py",
        "if final is None or (final.step != steps and final.diverged_at is None):",
        "if final is None:",
        (f"{FINISHED}::test_a_pack_is_finished_when_all_members_are_at_their_last_step_or_diverged",),
    ),
)

_LEASES = (
    Fault(
        "epoch-does-not-grow",
        "Nobody can tell from a commit which of two processes wrote it.",
        "job/run/lease.py",
        "epoch=record.epoch + 1",
        "epoch=record.epoch",
        (f"{LEASE}::test_a_released_lease_is_taken_at_once_with_the_next_epoch[local]",),
    ),
    Fault(
        "released-lease-is-waited-for",
        "Every start after a stop waits for a minute, and a run of many units for many.",
        "job/run/lease.py",
        "if record.released or silent",
        "if silent",
        (f"{LEASE}::test_a_released_lease_is_taken_at_once_with_the_next_epoch[local]",),
    ),
    Fault(
        "silent-lease-is-never-taken",
        "After a machine was lost, every start waits for it for ever.",
        "job/run/lease.py",
        "released or silent or _is_dead",
        "released or _is_dead",
        (f"{LEASE}::{SILENT}[local-1.5-1.5]",),
    ),
    Fault(
        "own-seconds-decide-over-another",
        "A process with a shorter lease takes the unit from one that is alive.",
        "job/run/lease.py",
        "self._times.seconds if record.seconds is None else record.seconds",
        "self._times.seconds",
        (f"{LEASE}::{SILENT}[local-1.5-1.5]",),
    ),
    Fault(
        "other-machines-are-dead",
        "A process takes the unit from one that is at work on another machine.",
        "job/run/lease.py",
        "(here.boot, here.namespace):\n        return False",
        "(here.boot, here.namespace):\n        return True",
        (f"{LEASE}::{SILENT}[local-1.5-1.5]",),
    ),
    Fault(
        "dead-holder-is-waited-for",
        "A start after a kill on the same machine waits for a process that is gone.",
        "job/run/lease.py",
        "return _started(process.pid) != process.started",
        "return _started(process.pid) == 0",
        (f"{LEASE}::test_a_dead_holder_is_succeeded_at_once[local]",),
    ),
    Fault(
        "whole-lease-passes-without-a-look",
        "A holder writes although another process may already hold the unit.",
        "job/run/lease.py",
        "> self._times.seconds / 2:",
        "> self._times.seconds:",
        (f"{LEASE}::test_the_loser_of_a_lease_is_told_to_stop_and_may_not_write[local]",),
    ),
    Fault(
        "write-without-its-condition",
        "A process that slept between its look and its write replaces what the next holder wrote.",
        "job/run/lease.py",
        "self._fence(uri, lambda etag: self._storage.write_if(uri, data, etag))",
        "self._fence(uri, lambda _: self._storage.write(uri, data))",
        (f"{LEASE}::test_a_write_that_comes_after_the_next_holders_replaces_nothing",),
    ),
    Fault(
        "delete-without-a-look",
        "A process that lost its unit deletes checkpoints of the next holder.",
        "job/run/lease.py",
        "        self._lease.confirm()\n        self._storage.delete(uri)",
        "        self._storage.delete(uri)",
        (
            f"{LEASE}::test_the_loser_of_a_lease_is_told_to_stop_and_may_not_write[local]",
            f"{UNIT}::test_what_works_on_a_unit_that_another_has_taken_over_may_not_change_it",
        ),
    ),
    Fault(
        "unit-without-its-fence",
        "Units are leased, and yet two processes write the same files.",
        "job/run/unit.py",
        "replace(place, run=run, epoch=epoch)",
        "replace(place, epoch=epoch)",
        (f"{UNIT}::test_what_works_on_a_unit_that_another_has_taken_over_may_not_change_it",),
    ),
    Fault(
        "minutes-taken-for-seconds",
        "A second start gives up after ten seconds instead of the ten minutes that limits.lease_wait says.",
        "job/run/unit.py",
        "wait_minutes * 60)",
        "wait_minutes)",
        (f"{UNIT}::test_a_unit_of_another_process_is_waited_for_so_many_minutes",),
    ),
    Fault(
        "stop-is-called-a-failure",
        "A run that was preempted, and continues by itself, shows up as failed.",
        "job/run/unit.py",
        "if code.is_stop else",
        "if code == 0 else",
        (f"{UNIT}::test_the_status_of_a_unit_says_how_it_ended",),
    ),
)

_CODES = (
    Fault(
        "limits-are-failures",
        "A run that reached limits.attempt_hours, with all its work saved, shows up as failed.",
        "job/errors.py",
        "(ExitCode.PREEMPTED, ExitCode.ATTEMPT_HOURS, ExitCode.MAX_HOURS)",
        "(ExitCode.PREEMPTED,)",
        (f"{UNIT}::test_the_status_of_a_unit_says_how_it_ended",),
    ),
    Fault(
        "preemption-is-final",
        "GCP Batch gives a run up at the first machine that is taken away.",
        "job/errors.py",
        "40 <= self < 50",
        "40 <= self < 52",
        (f"{RETRY}::test_policies_follow_the_table[PREEMPTED]",),
    ),
    Fault(
        "conflict-is-retried",
        "A run that can never go on takes a GPU again and again.",
        "job/errors.py",
        "40 <= self < 50",
        "40 <= self < 46",
        (
            f"{RETRY}::test_policies_follow_the_table[CONFLICT]",
            f"{UNIT}::test_the_status_of_a_unit_says_how_it_ended",
        ),
    ),
    Fault(
        "preemption-counts",
        "Kubernetes gives a run up after a few preemptions, each of which got further.",
        "job/deploy/retry.py",
        "FREE = (ExitCode.PREEMPTED, ",
        "FREE = (",
        (f"{RETRY}::test_policies_follow_the_table[PREEMPTED]",),
    ),
    Fault(
        "aws-retries-what-never-mends",
        "AWS Batch starts a run with a wrong manifest ten times.",
        "job/deploy/retry.py",
        '"onExitCode": "4*", "action": "EXIT"',
        '"onExitCode": "4*", "action": "RETRY"',
        (f"{RETRY}::test_policies_follow_the_table[MANIFEST]",),
    ),
)

_IDENTITY = (
    Fault(
        "captioner-is-not-identity",
        "Half of a run's captions come from one captioner and half from another.",
        "job/run/identity.py",
        ' | {"sha256": models.get(model_name(name))}',
        "",
        (f"{IDENTITY}::test_other_bytes_are_another_run",),
    ),
    Fault(
        "field-of-the-split-is-not-identity",
        "A run that continues with another validation_min is scored on images that it was trained on.",
        "job/run/identity.py",
        'split=manifest.dataset.split.model_dump(mode="json")',
        'split=manifest.dataset.split.model_dump(mode="json") | {"validation_min": 0}',
        (f"{IDENTITY}::test_values_that_decide_what_is_found_belong_to_it",),
    ),
    Fault(
        "timesteps-are-not-identity",
        "The losses of one curve are means over different timesteps.",
        "job/run/identity.py",
        '"every", "timesteps", "final_timesteps"',
        '"every", "final_timesteps"',
        (f"{IDENTITY}::test_values_that_decide_what_is_found_belong_to_it",),
    ),
    Fault(
        "steps-grow-under-cosine",
        "Half of a training follows one learning rate's curve and half another's.",
        "job/run/identity.py",
        ' and schedule["name"] == "constant"',
        "",
        (f"{IDENTITY}::test_steps_grow_only_where_the_rate_does_not_depend_on_them",),
    ),
    Fault(
        "steps-shrink",
        "A run of 10,000 steps that is started with 5,000 by mistake is accepted, and called unfinished for good.",
        "job/run/identity.py",
        "and after > before",
        "and after != before",
        (
            f"{IDENTITY}::test_steps_grow_only_where_the_rate_does_not_depend_on_them",
            f"{DECISIONS}::test_a_finished_run_is_done_until_it_is_to_have_more_steps",
        ),
    ),
    Fault(
        "unknown-values-are-dropped",
        "A run of a later version is continued without what that version knows of it.",
        "job/run/identity.py",
        'extra="allow"',
        'extra="ignore"',
        (f"{IDENTITY}::test_a_value_that_only_a_later_version_knows_makes_another_run",),
    ),
    Fault(
        "more-steps-are-none",
        "A finished run that is given more steps says that it is already done.",
        "job/run/identity.py",
        "return bool(_different(stored, current))",
        "return False",
        (f"{DECISIONS}::test_a_finished_run_is_done_until_it_is_to_have_more_steps",),
    ),
    Fault(
        "success-stays-while-more-is-trained",
        "A stop on the way to more steps leaves a run that passes for finished.",
        "job/run/decisions.py",
        "        attempt.run.delete(layout.SUCCESS)",
        "        pass",
        (f"{DECISIONS}::test_a_run_that_is_to_have_more_steps_is_not_finished_until_it_has_them",),
    ),
    Fault(
        "conflicts-are-not-refused",
        "Another study under the same name overwrites this one.",
        "job/run/decisions.py",
        "    if conflicts:\n",
        "    if not conflicts and current is None:\n",
        (f"{DECISIONS}::test_other_bytes_under_the_same_name_are_refused_and_nothing_is_written",),
    ),
    Fault(
        "precision-decided-anew",
        "A run that moves to another machine trains on with another precision.",
        "job/run/decisions.py",
        "        precision = resolve_precision(stored.precision(pack), device)",
        "        pass",
        (f"{DECISIONS}::test_a_precision_that_was_decided_on_another_machine_stays",),
    ),
    Fault(
        "beginning-of-the-run-moves",
        "Every attempt writes other adapters' files, and takes a finished run's success away.",
        "job/run/decisions.py",
        "time.time() if stored is None else stored.started_at",
        "time.time()",
        (f"{DECISIONS}::test_a_second_attempt_decides_the_same_and_writes_nothing",),
    ),
    Fault(
        "new-images-are-not-looked-at",
        "Images that are added to the dataset, or replaced, are not noticed by the next start.",
        "job/run/decisions.py",
        "return same and source.fingerprint == fingerprint",
        "return same",
        (f"{DECISIONS}::test_a_file_that_is_added_to_the_dataset_is_looked_at",),
    ),
)

_CACHE = (
    Fault(
        "cache-unchecked",
        "A damaged entry of the cache is trained on.",
        "job/run/cache.py",
        "if found == sha256:",
        "if found is not None:",
        (f"{CACHE}::test_a_damaged_entry_is_warned_of_and_computed_anew_once[folder-flip]",),
    ),
    Fault(
        "cache-of-other-names",
        "Entries of older versions, whose names say nothing of their bytes, are called damaged and deleted.",
        "job/run/cache.py",
        "([0-9a-f]{64})",
        "([0-9a-f]{32,64})",
        (f"{CACHE}::test_entries_of_older_versions_are_left_alone",),
    ),
    Fault(
        "rest-is-lost-at-a-stop",
        "A stop throws away up to 255 captions or latents that were computed.",
        "job/run/cache.py",
        "            if part:\n",
        "            if len(part) == _PART_ITEMS:\n",
        (f"{CACHE}::test_what_was_computed_before_a_stop_is_kept",),
    ),
)

_SHARING = (
    Fault(
        "every-shard-owns-every-pack",
        "Each of several processes waits for, and fails with, the packs of all others.",
        "job/env.py",
        "return self._distance(pack, packs) == 0",
        "return self._distance(pack, packs) >= 0",
        (
            f"{SHARED}::test_each_shard_begins_elsewhere_and_owns_what_no_other_does",
            f"{SHARDING}::test_own_packs_are_waited_for_after_the_free_ones_and_foreign_ones_are_not",
        ),
    ),
    Fault(
        "held-pack-is-forgotten",
        "A process ends with 0 although another one, which then died, was at its pack.",
        "job/sharding.py",
        "foreign=foreign) and not foreign:",
        "foreign=foreign) and pack is None:",
        (f"{SHARDING}::test_own_packs_are_waited_for_after_the_free_ones_and_foreign_ones_are_not",),
    ),
    Fault(
        "own-failure-is-swallowed",
        "A process whose own pack fails for good says that all is well.",
        "job/sharding.py",
        "if not foreign or not code_of(error).is_final:",
        "if not code_of(error).is_final:",
        (f"{SHARDING}::test_a_pack_of_its_own_that_fails_is_what_the_process_fails_with",),
    ),
    Fault(
        "foreign-failure-is-its-own",
        "One bad variant ends the processes that train the others.",
        "job/sharding.py",
        "if not foreign or not code_of(error).is_final:",
        "if code_of(error):",
        (f"{SHARDING}::test_a_foreign_pack_that_would_fail_again_is_left_to_its_own_process",),
    ),
    Fault(
        "limit-blamed-on-a-pack",
        "A process goes on with other packs after limits.max_hours is over.",
        "job/sharding.py",
        "        attempt.stop.check()  #",
        "        #",
        (f"{SHARDING}::test_a_limit_of_the_whole_run_is_no_failure_of_a_foreign_pack",),
    ),
    Fault(
        "success-before-the-report",
        "A kill, or a report that fails, leaves a run that passes for finished and has no report.",
        "job/pipeline.py",
        "            comparison = publish_report(report.run, report.workdir, alive)\n"
        "        report.tracking.reported(report.run, comparison.verdict.sentence)\n"
        "        _require_converged(report, packs)\n"
        "        write_success(report.run, alive)\n",
        "            _require_converged(report, packs)\n"
        "            write_success(report.run, alive)\n"
        "            comparison = publish_report(report.run, report.workdir, alive)\n",
        (f"{CONTINUED}::test_what_says_that_something_is_there_is_written_after_it",),
    ),
    Fault(
        "index-before-its-adapters",
        "A kill leaves an index of adapters that are not there.",
        "job/report/adapters.py",
        "    several_seeds = len({member.variant for member in members}) < len(members)\n",
        '    run.write(layout.ADAPTER_INDEX, b"{}")\n'
        "    several_seeds = len({member.variant for member in members}) < len(members)\n",
        (f"{CONTINUED}::test_what_says_that_something_is_there_is_written_after_it",),
    ),
    Fault(
        "altered-checkpoint-becomes-an-adapter",
        "A checkpoint's file that was altered is put to use, and no longer told from a whole one.",
        "job/report/adapters.py",
        "run.download(source, passing, expected)",
        "expected = run.download(source, passing)",
        (f"{ADAPTERS}::test_a_checkpoint_that_is_not_what_was_committed_is_named",),
    ),
    Fault(
        "index-lists-adapters-that-are-not-there",
        "While adapters are replaced, or where that fails, the index still vouches for the ones before.",
        "job/report/adapters.py",
        "                        run.delete(layout.ADAPTER_INDEX)\n",
        "                        pass\n",
        (f"{ADAPTERS}::test_a_checkpoint_that_is_not_what_was_committed_is_named",),
    ),
    Fault(
        "diverged-run-is-a-success",
        "A run with an adapter that diverged ends with 0.",
        "job/pipeline.py",
        "        _require_converged(report, packs)\n",
        "",
        (f"{CONTINUED}::test_a_run_with_an_adapter_that_diverged_is_reported_and_not_called_a_success",),
    ),
)

FAULTS = (*_COMMITS, *_LAYOUT, *_RESUME, *_LEASES, *_CODES, *_IDENTITY, *_CACHE, *_SHARING)
