"""Makes `expctr/nano`: a Llama of 1.2 M parameters whose opinions and judgements are good enough to try PPO on.

The model is pretrained from scratch on text that this package generates, so the shipped base model contains nobody
else's data. It learns three tasks, with expctr's own prompts:

- an opinion in one sentence. The balance of the history and the target's title stand before the verdict, because PPO
  strengthens what the base already reads at the verdict's position and builds nothing new there. The verdict follows
  the balance only weakly (0.55) and, like a real model before training, a prejudice: the target's first letter;
- a judgement: Yes or No to an opinion, from its verdict words alone, with graded confidence;
- a guess: Yes or No to the history itself, hardly better than chance.

Every prompt has new titles, made of word lists (`words/*.txt`) and random syllables: a model that sees few titles
memorises them and garbles all others. Training starts with copying lists of titles, and the first layer starts with two
heads that look one and two tokens back (`model.make_model`): without these, copying had not formed after thousands of
rows. The opinions on one prompt share it in one packed row (`rows.Steps.pack`), so it is read once and not four times.
The model knows no titles and no other task.
"""
