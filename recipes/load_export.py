"""Loads the demo's exported model with plain transformers and lets it answer one question: python recipes/load_export.py out/demo"""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

folder = Path(sys.argv[1]) / "exported" / "model"
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
chat = [{"role": "user", "content": "Mia has 9 coins. Mia sells 4. How many coins are left?"}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=60, do_sample=False)
size = sum(p.stat().st_size for p in folder.glob("*.safetensors")) / 2**20
print(f"plain transformers loaded {folder} ({size:.2f} MiB) and answers:")
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
