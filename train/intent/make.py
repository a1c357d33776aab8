#!/usr/bin/env python3
"""Writes prompts.tsv from families.txt: up to 18 prompts of each family, drawn with a fixed seed, none twice.
Columns: family, held (train or test), class, path, need, prompt (line breaks as \\n). usage: train/intent/make.py"""
import pathlib
import random
import re

HERE = pathlib.Path(__file__).resolve().parent
EACH = 18
LISTS = {
    "country": "Norway Peru Kenya Japan Portugal Canada Vietnam Poland Chile Egypt Iceland Hungary",
    "city": "Lisbon Kyoto Lima Oslo Graz Nairobi Cork Basel Porto Gdansk Lyon Quito",
    "river": "Nile Danube Rhine Amazon Mekong Volga Elbe",
    "person": "Marie Curie|Isaac Newton|Ada Lovelace|Mozart|Charles Darwin|Frida Kahlo|Johannes Kepler|Emmy Noether",
    "name": "Anna Tom Mira Paul Lena Omar Ruth Ivan Clara Hugo",
    "surname": "Berger Novak Silva Jensen Okoye Moreau Tanaka Weiss",
    "book": "Don Quixote|War and Peace|Middlemarch|The Trial|Emma|Moby Dick|Faust|The Odyssey|Dracula|Ulysses",
    "painting": "the Mona Lisa|the Night Watch|Guernica|The Scream|the Sunflowers",
    "landmark": "the Eiffel Tower|Mount Kenya|the Matterhorn|Cologne Cathedral|the Statue of Liberty",
    "invention": "telephone|printing press|steam engine|bicycle|light bulb|railway|transistor|microscope|sewing machine",
    "event": "the French Revolution|the Thirty Years' War|the gold rush|the oil crisis|the plague of 1348|the fall of the Berlin Wall|the Congress of Vienna",
    "element": "iron gold helium sodium carbon mercury copper tin",
    "word": "serendipity lantern quorum ephemeral ledger tangent mortgage parsimony bellows",
    "flag": "--force|-v|--dry-run|-r|--quiet|--depth",
    "tool": "PostgreSQL|nginx|Redis|Kafka|the backup server|rsync|the mail server|Kubernetes|the print server",
    "setting": "max_connections|shared_buffers|worker_processes|the timeout|the retention time|wal_level|the page size",
    "topic": "replication|logging|caching|authentication|working from home|data protection|backups|compression|travel costs",
    "product": "shoes|bicycles|solar panels|olive oil|headphones|wooden toys",
    "place": "library|museum|swimming pool|town hall|pharmacy|zoo|post office",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "daytime": "morning evening afternoon", "illness": "measles|influenza|anaemia|asthma|chickenpox",
    "food": "rice|soup|apples|bread|pancakes|lentils|salmon|cheese|mushrooms", "sport": "football|hockey|rugby|handball|volleyball",
    "language": "German|Finnish|Arabic|Spanish|Korean|Dutch", "thing": "lamp|chair|kettle|bicycle|clock|guitar|umbrella|carpet",
    "pet": "cat|dog|parrot|hamster|tortoise", "plang": "Python|C|Rust|Java|Go|JavaScript|Haskell",
}


SENTENCES = ["{name} {surname} took the early train to {city} on {day}.", "The {thing} had been standing in the hall since {year}.",
             "Nobody at the {place} remembered who had ordered {num} {thing}s.", "It rained, and the {pet} refused to leave the house.",
             "The shop sold {food}, {food} and sometimes {product}.", "\"We close at six,\" said {name}, \"and not a minute later.\"",
             "A letter from {city} arrived two weeks late.", "In the {daytime} they talked about {sport} and about {topic}.",
             "{name} paid {num} euros and asked for a receipt.", "The road to {city} was closed because of {event}, or so the sign said.",
             "Later {name} found the {thing} behind the {place}.", "There were {num} people in the room, and most of them were tired.",
             "On {day} the {place} opens an hour later than usual.", "They had {food} for lunch and waited for the rain to stop."]


def passage(rng):
    return " ".join(rng.choice(SENTENCES) for _ in range(rng.randrange(3, 25)))


def options(name):
    v = LISTS[name]
    return v.split("|") if "|" in v else v.split()


def fill(rng, text):
    while "{passage}" in text:
        text = text.replace("{passage}", passage(rng), 1)

    def one(m):
        if m.group(1) == "num":
            return str(rng.randrange(3, 990))
        if m.group(1) == "year":
            return str(rng.randrange(1950, 2020))
        return rng.choice(options(m.group(1)))

    return re.sub(r"\{(" + "|".join([*LISTS, "num", "year"]) + r")\}", one, text)


def main():
    rng, rows, head, ways, blank = random.Random(8), [], None, [], False

    def flush():
        if not head:
            return
        name, cls, path, need = head
        seen = {}
        for i in range(EACH * 8):
            if len(seen) < EACH:
                seen.setdefault(fill(rng, ways[i % len(ways)]))
        for p in seen:
            rows.append("\t".join([name.rstrip("!"), "test" if name.endswith("!") else "train", cls, path, need, p]))

    for line in (HERE / "families.txt").read_text().splitlines():
        if line.startswith("= "):
            flush()
            head, ways = line[2:].split(), []
        elif line.startswith("#"):
            continue
        elif line and blank and ways and ways[-1].endswith("{passage}"):
            ways[-1] += "\\n\\n" + line
        elif line:
            ways.append(line)
        blank = not line
    flush()
    (HERE / "prompts.tsv").write_text("".join(r + "\n" for r in rows))
    held = sum(r.split("\t")[1] == "test" for r in rows)
    print(f"{len(rows)} prompts of {len({r.split(chr(9))[0] for r in rows})} families, {held} held out")


if __name__ == "__main__":
    main()
