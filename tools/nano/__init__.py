"""Makes nano (`expctr/nano`): a Llama of 1.2 M parameters whose opinions and judgements are good enough to try PPO on.

It is pretrained from scratch on text that this package generates, so it contains nobody else's data. It learns three
tasks, with expctr's own prompts:

- an opinion in one sentence. The balance of the history and the target's title stand before the verdict, because PPO
  strengthens what the base already reads there. The verdict follows the balance weakly (0.55) and, like a real model
  before training, a prejudice: the target's first letter;
- a judgement: Yes or No to an opinion, from its verdict words alone, with graded confidence;
- a guess: Yes or No to the history itself, hardly better than chance.

Every prompt has new titles, of word lists (`words/*.txt`) and random syllables: a model that sees few titles memorises
them and garbles all others. Training starts with copying lists of titles, and two heads of the first layer start by
looking one and two tokens back: without these, copying had not formed after thousands of rows.
"""
