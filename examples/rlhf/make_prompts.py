"""Writes prompts.jsonl and held_out.jsonl: everyday prompts, made of our own templates. No held-out topic is in the other file.

python examples/rlhf/make_prompts.py
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
HELD_OUT = 8
"""Of each template's topics."""

TEMPLATES = {
    "Tell me about {} in a few words.": (
        "rain, Mondays, old shoes, a long queue, the sea, garlic, winter mornings, bicycles, spiders, silence, "
        "a broken umbrella, soup, the moon, traffic, my neighbour's dog, chess, dust, libraries, onions, thunder, paper maps, "
        "hiccups, lighthouses, moths, wet socks, a full inbox, sand, candles, pigeons, elevators, snow, bread, fog, "
        "a slow computer, needles, umbrellas, rivers, alarm clocks, cold tea, markets"
    ),
    "I just {}. What do you say?": (
        "missed the bus, burnt my toast, found a coin, lost my keys, finished a book, broke a plate, moved house, woke up late, "
        "failed a test, planted a tree, spilled my coffee, called my mother, sold my car, cut my finger, learned to swim, "
        "forgot a birthday, repaired a chair, got a parking ticket, dropped my phone, cooked rice, caught a cold, painted a wall, "
        "quit my job, met an old friend, bought a lamp, lost a bet, cleaned the kitchen, ran ten kilometres, had a haircut, "
        "slept badly, adopted a cat, dropped my ice cream, passed an exam, got lost in the woods, watered the plants, "
        "argued with my brother, wrote a poem, hurt my knee, baked a cake, missed a call"
    ),
    "What is it like to {}?": (
        "work at night, live by a river, wait for a doctor, share a room, grow tomatoes, ride a train, lose a game, "
        "speak to a crowd, wash dishes, walk in the dark, keep bees, drive in fog, learn the violin, get old, sit in an office, "
        "sleep in a tent, clean a chimney, fly a kite, stand in the rain, live alone, fix a roof, carry bricks, pay taxes, "
        "read in bed, climb a hill, visit a dentist, cook for ten people, miss somebody, live in a city, count sheep, "
        "paint a fence, sail a small boat, teach children, sort old letters, have a twin, travel without money, be left-handed, "
        "stay awake all night, drink salt water, move to another country"
    ),
    "Write a short note to {}.": (
        "a neighbour about the noise, my landlord about the heating, a friend who is ill, my boss about a late report, "
        "the baker, a pen pal, my teacher, the plumber about a leak, my sister about the holidays, a colleague who is leaving, "
        "the librarian about a late book, my flatmate about the dishes, a shop about a broken kettle, my grandmother, "
        "the postman, the owner of a lost glove, a hotel about a noisy room, my cousin about a debt, the gardener, "
        "a driver who blocked my gate, my uncle about his letter, the choir about a rehearsal, a pupil who was late, "
        "the dentist about an appointment, my coach about a missed training, an airline about a delay, the new neighbours, "
        "my father about the car, the caretaker about the lift, a friend who forgot to call, the bank about a fee, "
        "my team about a lost match, a restaurant about cold soup, the mayor about a bridge, the tailor about a coat, "
        "my brother about the dog, a stranger who helped me, the school about a trip, my aunt about a recipe, the tenant upstairs"
    ),
    "How should I describe {} to a child?": (
        "a funeral, a bank, a desert, the wind, a hospital, a lie, a volcano, homework, a shadow, money, an echo, a law, a drum, "
        "the dark, a cactus, a secret, a war, an island, medicine, a mistake, gravity, a vote, a wasp, a bridge, patience, "
        "a storm, a museum, hunger, a fossil, sleep, an argument, a mirror, a factory, a wolf, luck, a promise, a river, pain, "
        "a tower, a magnet"
    ),
    "Give me your opinion of {}.": (
        "early meetings, pineapple on pizza, cold showers, long films, school uniforms, video games, camping, night trains, "
        "loud music, handwritten letters, fast food, small talk, zoos, board games, plastic flowers, queues, mobile phones at "
        "dinner, open offices, fireworks, second-hand clothes, raw fish, long beards, weather forecasts, silent films, "
        "motorways, house plants, wet weather, shopping centres, crossword puzzles, hot summers, paper money, tall buildings, "
        "garden gnomes, instant coffee, karaoke, carpets, alarm clocks, empty beaches, package tours, taxis"
    ),
    "Describe {} in two sentences.": (
        "an empty street, a busy kitchen, a waiting room, a harbour at dawn, a flat tyre, a school yard, an old piano, "
        "a crowded bus, a dry garden, a wedding, a power cut, a bakery, a leaking tap, a mountain path, a car park, "
        "a Sunday afternoon, a traffic jam, a cellar, a frozen lake, a village shop, a burnt dinner, a train station, "
        "a rainy picnic, a workshop, a storm at sea, a lost suitcase, a playground, a football match, an abandoned house, "
        "a quiet library, a hospital bed, a market stall, a dusty attic, a birthday party, a muddy field, a laundry, a campfire, "
        "a stray cat, a toothache, a farm"
    ),
    "My {} again today. Any thoughts?": (
        "train was late, cat ran away, soup was cold, phone broke, boss was angry, roof leaked, neighbour sang, "
        "back hurt, bread did not rise, internet failed, team lost, son was ill, car would not start, friend cancelled, "
        "shoes got wet, garden flooded, alarm did not ring, printer jammed, daughter won a prize, dog slept all day, "
        "window was left open, lunch was late, sister called, plants flowered, exam was moved, tea was too hot, colleague was away, "
        "letter came back, key got stuck, radio played my song, heating failed, bike was stolen, parcel was lost, "
        "bus was full, coffee spilled, computer froze, mother visited, teacher was kind, shop was closed, knee hurt"
    ),
}
"""Each template, and what stands in it."""


def prompts() -> dict[str, list[str]]:
    """The prompts to learn from and those that are held out, each in an order drawn once and for all."""
    draw = random.Random(20)
    found: dict[str, list[str]] = {"prompts": [], "held_out": []}
    held_out = {template: draw.sample(_topics(template), HELD_OUT) for template in TEMPLATES}
    never = {topic for topics in held_out.values() for topic in topics}
    for template in TEMPLATES:
        found["held_out"] += [template.format(topic) for topic in held_out[template]]
        found["prompts"] += [template.format(topic) for topic in _topics(template) if topic not in never]
    for several in found.values():
        draw.shuffle(several)
    return found


def _topics(template: str) -> list[str]:
    return TEMPLATES[template].split(", ")


if __name__ == "__main__":
    for name, several in prompts().items():
        rows = [{"prompt": [{"role": "user", "content": text}]} for text in several]
        path = HERE / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{path}: {len(rows)} prompts")
