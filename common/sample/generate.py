#!/usr/bin/env python3
"""Write the kit's sample: train.json and dev.json (SQuAD v1.1) about an invented world, and tokenizer.json.

    python3 generate.py [FOLDER]        (default: the folder this file is in)

The same files come out byte for byte on every machine: the random numbers are this file's own, and the tokenizer's
training breaks ties by token id. Needs Hugging Face's `tokenizers` for that training and the standard library.
"""
import json
import os
import string
import sys

import world

SEED = 20
QUESTIONS_PER_PARAGRAPH = [4, 3, 5, 4, 4]  # of a town in train.json: 25 towns x 20 = 500
VALIDATION_QUESTIONS = [5, 5, 5, 5, 5]     # 2 towns x 25 = 50
TOKENIZER_ENTRIES = 2000
TOKENIZER_WORLDS = 20  # as many sets of 500 texts
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>"]  # ids 0 to 3, as in BLOOM
BLOOM_PIECES = r" ?[^(\s|[.,!?…。，、।۔،])]+"  # the expression in BLOOM's own tokenizer.json


class Random:
    """xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016)."""

    def __init__(self, seed):
        self.state = seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF

    def below(self, bound):
        state = self.state
        state ^= state >> 12
        state ^= state << 25 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 27
        self.state = state
        return (state * 0x2545F4914F6CDD1D >> 32 & 0xFFFFFFFF) * bound >> 32

    def between(self, low, high, step=1):
        return low + step * self.below((high - low) // step + 1)

    def choice(self, items):
        return items[self.below(len(items))]

    def sample(self, items, count):
        """`count` of the items, in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]


class World:
    """Draws the facts of towns; what is named once in the world is handed out once."""

    def __init__(self, random):
        self.random = random
        self.unused = {kind: random.sample(names, len(names)) for kind, names in world.NAMES.items()}
        self.people = set()

    def person(self, first_names=world.WOMEN + world.MEN):
        while True:
            name = self.random.choice(first_names) + " " + self.random.choice(world.SURNAMES)
            if name not in self.people:
                self.people.add(name)
                return name

    def year(self, low, high):
        return str(self.random.between(low, high))

    def thousands(self, low, high, step):
        return f"{self.random.between(low, high, step):,}"

    def woman_or_man(self, slot, facts):
        """A person in `slot`, with the pronouns and the word for a child that go with the name."""
        if self.random.below(2):
            facts.update({slot: self.person(world.WOMEN), "she": "she", "She": "She", "her": "her", "Her": "Her",
                          "child": "daughter"})
        else:
            facts.update({slot: self.person(world.MEN), "she": "he", "She": "He", "her": "him", "Her": "His",
                          "child": "son"})

    def town(self, name, river, goods, item, makers):
        """The facts that all paragraphs about one town share."""
        return {"town": name, "river": river, "goods": goods, "item": item, "makers": makers,
                "province": self.random.choice(world.PROVINCES), "founder": self.person(),
                "founded": self.year(1080, 1240), "people": self.thousands(1200, 9800, 100),
                "floors": self.random.choice(world.NUMBER_WORDS)}

    def facts(self, subject, town):
        """The facts that a paragraph on `subject` tells: the town's, those of the subject, and from the lists the rest."""
        facts = dict(town)

        def number(low, high, step=1):
            return str(self.random.between(low, high, step))

        def word():
            return self.random.choice(world.NUMBER_WORDS)

        if subject in self.unused:
            facts[subject] = self.unused[subject].pop()
        if subject == "river":
            facts.update(length=number(40, 290), mills=word(), flooded=self.year(1300, 1640))
        elif subject == "inventor":
            self.woman_or_man("inventor", facts)
            facts["device"], facts["purpose"] = self.unused["invention"].pop()
            born = self.random.between(1410, 1590)
            facts.update(born=str(born), age=number(12, 19), invented=str(born + self.random.between(24, 50)),
                         teacher=self.person(), pupils=word())
        elif subject == "guild":
            facts.update(formed=self.year(1260, 1390), master=self.person(), others=word(), years=word(),
                         members=number(35, 240))
        elif subject == "bridge":
            facts.update(feet=number(120, 780), architect=self.person(), planned=self.year(1400, 1590), years=word(),
                         arches=word(), ferryman=self.person(), crossings=self.thousands(1100, 4900, 100),
                         lamplighter=self.person())
        elif subject == "festival":
            facts.update(days=word(), recalled=self.year(1250, 1390), guests=number(150, 950, 10))
        elif subject == "library":
            facts.update(opened=self.year(1420, 1590), given=number(110, 960), donor=self.person(),
                         books=self.thousands(8100, 98000, 100), scribe=self.person(), weeks=word(),
                         keeper=self.person())
        elif subject == "mountain":
            facts.update(peak=self.unused["peak"].pop(), height=self.thousands(4100, 9900, 10), climber=self.person(),
                         climbed=self.year(1430, 1640), beds=word(), hours=word())
        elif subject == "ship":
            facts.update(shipwright=self.person(), launched=self.year(1480, 1640), captain=self.person(),
                         crew=number(18, 60), voyage=number(12, 95), service=number(13, 48))
        elif subject == "composer":
            self.woman_or_man("composer", facts)
            came = self.random.between(1500, 1610)
            facts.update(work=self.unused["work"].pop(), came=str(came), played=str(came + self.random.between(2, 25)),
                         players=word(), minutes=number(15, 90))
        for slot, things in world.LISTS.items():
            facts.setdefault(slot, self.random.choice(things))
        if subject == "composer":
            facts["her"] = "her" if facts["she"] == "she" else "his"
        return facts


def slots(template):
    return {slot for _, slot, _, _ in string.Formatter().parse(template) if slot}


def fill(templates, facts):
    """The text of the sentences, and for each slot where its first filling starts (a character offset)."""
    text, starts = "", {}
    for template in templates:
        text += " " if text else ""
        for words, slot, _, _ in string.Formatter().parse(template):
            text += words
            if slot:
                starts.setdefault(slot, len(text))
                text += facts[slot]
    return text, starts


def paragraph(random, subject, facts, count, identifier):
    """One paragraph about `subject` with `count` questions, as SQuAD has it."""
    told = world.SUBJECTS[subject]
    for phrasings in told["sentences"]:
        assert len({frozenset(slots(p) - {"she", "She", "her", "Her"}) for p in phrasings}) == 1, phrasings
    context, starts = fill([random.choice(phrasings) for phrasings in told["sentences"]], facts)
    qas = []
    for slot in random.sample(told["questions"], count):
        question, _ = fill([random.choice(told["questions"][slot])], facts)
        answer = {"text": facts[slot], "answer_start": starts[slot]}
        assert context.startswith(answer["text"], answer["answer_start"])
        qas.append({"id": f"{identifier}-{len(qas) + 1}", "question": question, "answers": [answer]})
    return {"context": context, "qas": qas}


def articles(invented, towns, counts):
    """One article a town: a paragraph about the town, then len(counts) - 1 about other subjects, which take turns."""
    random = invented.random
    others = [subject for subject in world.SUBJECTS if subject != "town"]
    turn = 0
    for row in towns:
        town = invented.town(*row)
        subjects = ["town"] + [others[(turn + i) % len(others)] for i in range(len(counts) - 1)]
        turn += len(counts) - 1
        paragraphs = [paragraph(random, subject, invented.facts(subject, town), count, f"{row[0].lower()}-{number}")
                      for number, (subject, count) in enumerate(zip(subjects, counts), 1)]
        yield {"title": row[0], "paragraphs": paragraphs}


def examples(squad):
    """The texts that a model is fine-tuned on."""
    for article in squad["data"]:
        for part in article["paragraphs"]:
            for qa in part["qas"]:
                yield f"Question: {qa['question']} Context: {part['context']} Answer: {qa['answers'][0]['text']}"


def train_tokenizer(texts):
    """Byte-level BPE with BLOOM's pre-tokenizer, post-processor and decoder, trained on the texts."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(BLOOM_PIECES), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=TOKENIZER_ENTRIES, special_tokens=SPECIAL_TOKENS, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts, trainer)
    described = json.loads(tokenizer.to_str())
    for token in described["added_tokens"]:
        token["normalized"] = False
    return described


def write_json(path, content):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.write("\n")


def draw(seed):
    """A world's training and validation sets."""
    invented = World(Random(seed))
    border = len(world.TOWNS) - world.VALIDATION_TOWNS
    return ({"version": "1.1", "data": list(articles(invented, world.TOWNS[:border], QUESTIONS_PER_PARAGRAPH))},
            {"version": "1.1", "data": list(articles(invented, world.TOWNS[border:], VALIDATION_QUESTIONS))})


def tokenizer_texts():
    """Training sets alone, of the sample's world and of others with the same names but other facts."""
    for seed in range(SEED, SEED + TOKENIZER_WORLDS):
        yield from examples(draw(seed)[0])


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    train, dev = draw(SEED)
    write_json(os.path.join(folder, "train.json"), train)
    write_json(os.path.join(folder, "dev.json"), dev)
    write_json(os.path.join(folder, "tokenizer.json"), train_tokenizer(tokenizer_texts()))
    print(f"{len(list(examples(train)))} questions for training, {len(list(examples(dev)))} for validation")


if __name__ == "__main__":
    main()
