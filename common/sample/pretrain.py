#!/usr/bin/env python3
"""Write the text that the sample's model is pre-trained on: pretrain.txt, one text a line.

    python3 pretrain.py FOLDER [WORLDS]     (default: 2,000 worlds of 125 texts)

The text is about the sample's world, but about other facts, and about many towns, rivers, people and goods that the
sample does not know; the towns that are kept for validation do not occur. Of eight texts, one is a list that is read
twice, one a paragraph that is told twice in different words, and in six somebody wants to know something, reads a
paragraph and says what is found. The form in which the sample asks (Question: … Context: … Answer: …) is not among
it, nor a reply that is nothing but the answer: that is left to fine-tuning.

The same file comes out byte for byte on every machine.
"""
import multiprocessing
import os
import sys

import generate
import world

FIRST_SEED = 1000
WORLDS = 2000

# Names are put together from these.
STARTS = ["Ab", "Al", "Bar", "Bel", "Bran", "Cal", "Cor", "Dar", "Del", "Dun", "El", "Fal", "Fen", "Gal", "Grim", "Hal",
          "Hes", "Il", "Jor", "Kel", "Kir", "Lan", "Lud", "Mal", "Mer", "Mos", "Nor", "Ol", "Or", "Pel", "Quin", "Ral",
          "Ros", "Sal", "Sel", "Tal", "Tor", "Ul", "Val", "Ver", "Wil", "Yel", "Zan"]
MIDDLES = ["", "a", "e", "i", "o", "u", "an", "ar", "en", "er", "il", "or", "um", "and", "ist", "ov", "ack", "ess"]
TOWN_ENDS = ["ford", "wick", "holt", "beck", "moor", "stow", "by", "mouth", "gate", "ham", "dale", "ton", "well", "combe",
             "haven", "ridge", "fold", "mere", "eth", "ay", "is", "our"]
RIVER_ENDS = ["in", "el", "ock", "er", "ow", "ith", "ley", "rin", "et", "une", "ash", "am", "is", "oss"]
SURNAME_ENDS = ["man", "son", "wright", "croft", "wood", "bury", "lake", "stone", "berry", "worth", "ing", "ley", "field"]
MATERIALS = ["cedar", "amber", "pewter", "tin", "velvet", "straw", "marble", "cherry", "ivory", "bronze", "cotton", "maple",
             "pearl", "walnut", "bamboo", "cork", "jade", "lead", "satin", "birch", "gold", "red", "black", "round", "long"]
WARES = [("flute", "flutes", "Flute Makers"), ("button", "buttons", "Button Makers"), ("ladder", "ladders", "Carpenters"),
         ("mug", "mugs", "Potters"), ("saddle", "saddles", "Saddlers"), ("drum", "drums", "Drum Makers"),
         ("broom", "brooms", "Broom Binders"), ("cup", "cups", "Turners"), ("sledge", "sledges", "Cartwrights"),
         ("plate", "plates", "Platers"), ("coat", "coats", "Tailors"), ("gate", "gates", "Smiths"),
         ("doll", "dolls", "Doll Makers"), ("whistle", "whistles", "Pipers"), ("purse", "purses", "Purse Makers"),
         ("sausage", "sausages", "Butchers"), ("fiddle", "fiddles", "Fiddle Makers"), ("mirror", "mirrors", "Glaziers"),
         ("bottle", "bottles", "Bottle Blowers"), ("brush", "brushes", "Brush Makers"), ("cloak", "cloaks", "Drapers"),
         ("table", "tables", "Table Makers"), ("dagger", "daggers", "Cutlers"), ("pie", "pies", "Pastry Cooks")]

# What is around a question and a paragraph; the reply to it; what is around further questions.
READINGS = [
    "{reader} wants to know: {question} {reader} opens a book and reads: {context} So {reader} has found it. {reply}",
    "A letter to the clerk asks: {question} The clerk looks it up: {context} The clerk writes back. {reply}",
    "The children ask: {question} Their teacher reads aloud: {context} And now the children know. {reply}",
    "{question} That is what {reader} was asked on the way. On a board at the road one could read: {context} {reply}",
]
REPLIES = ["{answer}, says the book.", "{answer} is what the book says.", "{answer}, as it is written there.",
           "It is {answer}, says the book."]
MORE = [" And then: {question} {reply}", " {reader} asks again: {question} {reply}", " {question} {reply}"]
RETELLINGS = [
    "{context} Told in other words: {again}",
    "{reader} tells it in this way: {context} And {other} in that way: {again}",
    "{context} {reader} wrote it down so: {again}",
]
LISTS = [
    "{reader} reads out the list: {names}. {other} reads it again: {names}.",
    "On the list are {names}. Once more: {names}.",
]


class World(generate.World):
    """Draws facts as the sample's world does, but half of the names are made up, each for one world."""

    def name(self, ends):
        return self.random.choice(STARTS) + self.random.choice(MIDDLES) + self.random.choice(ends)

    def person(self, first_names=world.WOMEN + world.MEN):
        if self.random.below(3):
            return super().person(first_names)
        return self.random.choice(first_names) + " " + self.name(SURNAME_ENDS)

    def any_name(self):
        """Of a town, a river, a person, or a number."""
        kind = self.random.below(4)
        return self.name(TOWN_ENDS if kind else RIVER_ENDS) if kind < 2 else self.person() if kind == 2 else \
            self.year(1080, 1640)

    def rows(self):
        """Towns as in world.TOWNS, of known and new names, rivers and goods in any combination."""
        random = self.random
        known = world.TOWNS[:-world.VALIDATION_TOWNS]
        columns = [random.sample(column, len(column)) for column in
                   ([row[0] for row in known], [row[1] for row in known], [row[2:] for row in known])]
        for town, river, goods in zip(*columns):
            if random.below(2):
                town = self.name(TOWN_ENDS)
            if random.below(2):
                river = self.name(RIVER_ENDS)
            if random.below(2):
                material, (one, many, makers) = random.choice(MATERIALS), random.choice(WARES)
                article = "an" if material[0] in "aeiou" else "a"
                goods = (f"{material} {many}", f"{article} {material} {one}", makers)
            yield (town, river, *goods)


def some_sentences(random, subject):
    """The first sentence of the subject and up to all others, in their order: short paragraphs are learned from first."""
    others = list(range(1, len(world.SUBJECTS[subject]["sentences"])))
    return [0] + sorted(random.sample(others, random.choice([0, 1, 1, 2, 3, 4, 4])))


def told(random, subject, facts, chosen, before=None):
    """Those sentences of the subject; the number of each one's phrasing, which is another one than `before`."""
    ways = [world.SUBJECTS[subject]["sentences"][number] for number in chosen]
    numbers = [random.below(len(way)) for way in ways]
    if before:
        numbers = [(old + 1 + random.below(len(way) - 1)) % len(way) for old, way in zip(before, ways)]
    return generate.fill([way[number] for way, number in zip(ways, numbers)], facts) + (numbers,)


def reading(random, subject, facts, context, slots, reader):
    """A question, the paragraph, the reply; then up to three more questions, each with its reply."""
    pairs = []
    for slot in random.sample(slots, min(len(slots), 1 + random.below(4))):
        question, _ = generate.fill([random.choice(world.SUBJECTS[subject]["questions"][slot])], facts)
        pairs.append({"question": question, "reply": random.choice(REPLIES).format(answer=facts[slot])})
    return random.choice(READINGS).format(context=context, reader=reader, **pairs[0]) + "".join(
        random.choice(MORE).format(reader=reader, **pair) for pair in pairs[1:])


def text(invented, subject, facts):
    """A text about one subject of one town."""
    random = invented.random
    reader, other = random.choice(world.WOMEN), random.choice(world.MEN)
    chosen = some_sentences(random, subject)
    context, starts, numbers = told(random, subject, facts, chosen)
    slots = [slot for slot in world.SUBJECTS[subject]["questions"] if slot in starts]
    kind = random.below(8)
    if kind == 0:
        names = ", ".join(invented.any_name() for _ in range(3 + random.below(6)))
        return random.choice(LISTS).format(reader=reader, other=other, names=names)
    if kind == 1:
        again, _, _ = told(random, subject, facts, chosen, numbers)
        return random.choice(RETELLINGS).format(context=context, again=again, reader=reader, other=other)
    return reading(random, subject, facts, context, slots, reader)


def texts(seed):
    """The 125 texts of one world: five on each of 25 towns."""
    invented = World(generate.Random(seed))
    others = [subject for subject in world.SUBJECTS if subject != "town"]
    lines = []
    for number, row in enumerate(invented.rows()):
        town = invented.town(*row)
        for subject in ["town"] + [others[(4 * number + i) % len(others)] for i in range(4)]:
            lines.append(text(invented, subject, invented.facts(subject, town)))
    for row in world.TOWNS[-world.VALIDATION_TOWNS:]:
        assert not any(name in line for line in lines for name in row[:2]), row
    return lines


def main():
    folder, worlds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else WORLDS
    os.makedirs(folder, exist_ok=True)
    count = 0
    with multiprocessing.Pool() as pool, \
            open(os.path.join(folder, "pretrain.txt"), "w", encoding="utf-8", newline="\n") as file:
        for lines in pool.imap(texts, range(FIRST_SEED, FIRST_SEED + worlds), chunksize=8):
            file.writelines(line + "\n" for line in lines)
            count += len(lines)
    print(f"{count} texts in {folder}/pretrain.txt")


if __name__ == "__main__":
    main()
