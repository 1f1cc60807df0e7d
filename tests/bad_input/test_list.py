"""The list of bad inputs, and the test of each; the other tests of this folder go beyond the list."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent

TESTS = {
    "unknown part or task": "test_recipe.py::test_unknown_part_or_task",
    "unknown field": "test_recipe.py::test_unknown_field",
    "wrong type": "test_recipe.py::test_wrong_type",
    "empty recipe": "test_recipe.py::test_empty_recipe",
    "empty file": "test_data.py::test_empty_file",
    "malformed JSONL line": "test_data.py::test_malformed_file",
    "row without the needed column": "test_data.py::test_row_without_the_needed_column",
    "row without the column that a later step needs": "test_data.py::test_needed_column_of_a_later_step",
    "file of a later step": "test_data.py::test_file_of_a_later_step",
    "NaN or Inf in weights": "test_model.py::test_weights_that_are_not_finite",
    "NaN or Inf in activations, training": "test_training.py::test_activations_that_are_not_finite_in_training",
    "NaN or Inf in activations, measuring": "test_training.py::test_activations_that_are_not_finite_in_measuring",
    "NaN or Inf in activations, quantizing": "test_quantize.py::test_activations_that_are_not_finite",
    "NaN or Inf in the loss": "test_training.py::test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint",
    "no chat template": "test_model.py::test_tokenizer_without_chat_template",
    "broken chat template": "test_model.py::test_broken_chat_template",
    "longer than the context, training": "test_training.py::test_sequences_longer_than_the_context_in_training",
    "longer than the context, measuring": "test_training.py::test_sequences_longer_than_the_context_in_measuring",
    "longer than the context, generation": "test_training.py::test_sequences_longer_than_the_context_in_generation",
    "calibration set too small": "test_quantize.py::test_calibration_set_too_small",
    "no calibration rows": "test_quantize.py::test_no_calibration_rows",
    "shapes that do not divide the group size": "test_quantize.py::test_shapes_that_do_not_divide_the_group_size",
    "a folder that is no model": "test_model.py::test_a_folder_that_is_no_model",
    "a model that is not there": "test_model.py::test_a_model_that_is_not_there",
    "corrupted or truncated safetensors": "test_model.py::test_damaged_weight_file",
    "a shard missing, an index wrong": "test_model.py::test_shards_and_index",
    "a tensor missing": "test_model.py::test_weights_without_a_tensor_are_not_filled_up_with_random_numbers",
    "tensors that nobody reads": "test_model.py::test_tensors_that_the_configuration_has_no_place_for_are_told",
    "weights of another configuration": "test_model.py::test_weights_and_configuration_of_different_models",
    "damaged packed model": "test_quantize.py::test_a_packed_file_that_is_damaged",
    "pickle weights": "test_model.py::test_pickle_weights",
    "a recipe from a newer version": "test_recipe.py::test_a_recipe_from_a_newer_version",
    "budget zero or negative": "test_recipe.py::test_budget_zero_or_negative",
    "budget zero or negative, Python": "test_recipe.py::test_budget_in_python",
    "a reward that raises on one completion": "test_reward.py::test_a_reward_that_raises_on_one_completion",
    "a reward outside [0, 1]": "test_reward.py::test_a_reward_outside_its_range",
    "duplicate step names": "test_recipe.py::test_step_names_that_are_taken",
    "a step name with a slash": "test_recipe.py::test_names_that_could_not_stand_in_a_path",
    "unknown references, circles": "test_recipe.py::test_references",
    "a reference to a later step": "test_recipe.py::test_a_reference_to_a_step_that_is_written_later",
    "YAML tabs, duplicate keys": "test_recipe.py::test_yaml_that_is_none_or_not_meant",
    "YAML anchors that multiply": "test_recipe.py::test_anchors_that_multiply",
    "wrong overrides": "test_recipe.py::test_overrides",
    "a recipe that is a folder": "test_recipe.py::test_a_recipe_that_is_a_folder_or_not_there",
    "a data file that is a folder": "test_data.py::test_a_file_that_is_a_folder_or_not_there",
    "byte-order mark, CRLF, NUL": "test_data.py::test_byte_order_marks_windows_line_ends_and_escapes_are_read",
    "corrupted Parquet": "test_data.py::test_parquet_that_was_cut_off",
    "labels -100 everywhere": "test_data.py::test_nothing_trained",
    "all rows filtered out": "test_data.py::test_all_rows_filtered_out",
    "empty prompts and replies": "test_data.py::test_empty_prompts_and_replies_are_counted",
    "an empty prompt, generation": "test_training.py::test_an_empty_prompt",
    "a tokenizer larger than the embedding": "test_model.py::test_tokenizer_larger_than_the_embedding",
    "no end token": "test_model.py::test_no_end_token",
    "a changed tokenizer": "test_model.py::test_a_changed_tokenizer_is_another_model",
    "float16 on a CPU": "test_model.py::test_float16_on_a_cpu",
    "tied weights after an edit": "test_model.py::test_tied_weights_stay_tied_after_an_edit",
    "merging models of different shapes": "test_model.py::test_merging_models_of_different_shapes",
    "merging models of different tokenizers": "test_model.py::test_merging_models_of_different_tokenizers",
    "temperature 0 in rollouts, a wrong-sized group": "test_training.py::test_rollouts_that_cannot_teach",
    "no traceback on the command line": "test_training.py::test_the_command_line_prints_no_traceback",
    "earlier artifacts intact": "test_data.py::test_a_bad_file_leaves_finished_steps_alone",
    "fuzz: data files": "test_fuzz.py::test_files_of_any_bytes",
    "fuzz: Parquet": "test_fuzz.py::test_parquet_with_changed_bytes",
    "fuzz: rows, GSM8K, HumanEval": "test_fuzz.py::test_rows_of_any_shape",
    "fuzz: text files": "test_fuzz.py::test_texts_of_any_bytes",
    "fuzz: formats": "test_fuzz.py::test_formats_on_rows_of_any_shape",
    "fuzz: recipes": "test_fuzz.py::test_recipes_of_any_shape",
    "fuzz: recipe files": "test_fuzz.py::test_recipe_files_of_any_text",
    "fuzz: overrides": "test_fuzz.py::test_overrides_of_any_text",
    "fuzz: safetensors": "test_fuzz.py::test_safetensors_of_any_header",
    "fuzz: whet.json, index": "test_fuzz.py::test_lineage_and_index_of_any_bytes",
}
"""Bad input -> the test that reads its message."""


def test_every_entry_has_its_test() -> None:
    written = {
        f"{file.name}::{node.name}"
        for file in HERE.glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert set(TESTS.values()) <= written
