"""The demo's categories: where they lie in the space of tastes, and the words that items are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Category:
    """One category of items.

    anchor:       its place in the space of tastes; axes: active, screen, culture, domestic, sociable.
    median_price: in currency units.
    peak_age:     years at which it is liked most. peak_hour: of the day, likewise.
    gender:       how much more women (positive) or men (negative) like it, in units of a taste's logit.
    desktop:      how much more it is liked at a large screen than on a phone, likewise.
    nouns:        what its items are. tags: what they are about.
    """

    name: str
    anchor: tuple[float, float, float, float, float]
    median_price: float
    peak_age: float
    peak_hour: float
    gender: float
    desktop: float
    nouns: tuple[str, ...]
    tags: tuple[str, ...]


CATEGORIES = (
    Category(
        "sport", (1.7, -0.3, -0.6, -0.5, 0.4), 45.0, 27.0, 7.0, -0.35, -0.2,
        ("Running Shoes", "Football", "Climbing Harness", "Tennis Racket", "Cycling Jersey", "Swim Goggles",
         "Trail Backpack", "Rowing Gloves", "Ski Helmet", "Basketball"),
        ("running", "football", "cycling", "climbing", "swimming", "tennis"),
    ),
    Category(
        "health", (1.1, -0.5, 0.1, 0.7, -1.0), 30.0, 48.0, 6.0, 0.35, 0.0,
        ("Yoga Mat", "Massage Roller", "Sleep Mask", "Blood Pressure Monitor", "Herbal Balm", "Vitamin Set",
         "Posture Cushion", "Water Filter Bottle", "Meditation Stool", "Resistance Bands"),
        ("yoga", "sleep", "nutrition", "mindfulness", "recovery", "posture"),
    ),
    Category(
        "travel", (0.9, -0.8, 0.8, -1.0, 0.2), 80.0, 33.0, 12.0, 0.1, 0.2,
        ("City Guide", "Carry-on Case", "Travel Pillow", "Road Map", "Hammock", "Packing Cubes",
         "Rain Poncho", "Phrase Book", "Camping Stove", "Day Pack"),
        ("city-trip", "camping", "islands", "mountains", "road-trip", "trains"),
    ),
    Category(
        "fashion", (-0.1, -0.3, 0.3, -0.9, 1.4), 60.0, 25.0, 19.0, 0.6, -0.4,
        ("Linen Shirt", "Denim Jacket", "Leather Belt", "Wool Scarf", "Summer Dress", "Sneakers", "Rain Coat",
         "Silk Tie", "Canvas Tote", "Sunglasses"),
        ("streetwear", "vintage", "jewellery", "shoes", "denim", "knitwear"),
    ),
    Category(
        "music", (0.1, 0.6, 1.3, -0.6, 0.3), 25.0, 24.0, 17.0, 0.0, 0.0,
        ("Vinyl Record", "Guitar Strings", "Songbook", "Headphones", "Live Album", "Drum Sticks",
         "Piano Course", "Ukulele", "Concert Poster", "Metronome"),
        ("jazz", "rock", "classical", "electronic", "folk", "hip-hop"),
    ),
    Category(
        "film", (-0.9, 1.1, 0.8, 0.2, 0.2), 15.0, 38.0, 21.0, 0.05, 0.2,
        ("Director's Cut", "Box Set", "Documentary", "Film Poster", "Screenplay", "Short Film Collection",
         "Restored Classic", "Mini Series", "Soundtrack", "Making-of Book"),
        ("thriller", "comedy", "documentary", "drama", "animation", "noir"),
    ),
    Category(
        "books", (-1.0, -0.3, 1.4, 0.5, -0.6), 14.0, 55.0, 22.0, 0.3, 0.0,
        ("Novel", "Short Stories", "Biography", "Essay Collection", "Poetry Volume", "Mystery", "Travelogue",
         "History", "Memoir", "Family Saga"),
        ("crime", "history", "fantasy", "biography", "poetry", "science"),
    ),
    Category(
        "games", (-0.5, 1.7, -0.6, -0.7, 0.3), 35.0, 21.0, 23.0, -0.5, 0.5,
        ("Strategy Game", "Puzzle Box", "Racing Game", "Board Game", "Card Game", "Controller",
         "Role-playing Game", "Platformer", "Dice Set", "Arcade Collection"),
        ("strategy", "puzzle", "racing", "role-playing", "co-op", "retro"),
    ),
    Category(
        "tech", (0.5, 1.4, -0.8, 0.2, -0.7), 120.0, 31.0, 20.0, -0.4, 0.6,
        ("Wireless Speaker", "Mechanical Keyboard", "Action Camera", "Smart Watch", "Power Bank", "Drone",
         "E-Reader", "Desk Monitor", "Webcam", "Solder Kit"),
        ("audio", "cameras", "wearables", "gadgets", "computing", "robotics"),
    ),
    Category(
        "home", (-0.7, 0.2, -0.4, 1.5, 0.3), 55.0, 42.0, 18.0, 0.25, 0.1,
        ("Floor Lamp", "Wool Blanket", "Book Shelf", "Wall Clock", "Storage Basket", "Desk Chair",
         "Linen Set", "Tool Box", "Candle Holder", "Picture Frame"),
        ("lighting", "storage", "bedroom", "workshop", "decor", "office"),
    ),
    Category(
        "garden", (0.3, -1.2, -0.3, 1.1, -0.7), 28.0, 60.0, 10.0, 0.0, 0.0,
        ("Seed Collection", "Pruning Shears", "Raised Bed", "Bird Feeder", "Watering Can", "Herb Planter",
         "Rose Bush", "Compost Bin", "Garden Bench", "Greenhouse"),
        ("flowers", "vegetables", "herbs", "birds", "trees", "balcony"),
    ),
    Category(
        "food", (0.2, -0.6, 0.3, 1.0, 1.2), 18.0, 45.0, 13.0, 0.15, -0.1,
        ("Olive Oil", "Cast-iron Pan", "Cookbook", "Coffee Beans", "Spice Box", "Chef's Knife", "Tea Sampler",
         "Chocolate Box", "Bread Starter", "Pasta Maker"),
        ("baking", "coffee", "vegan", "grill", "spices", "wine"),
    ),
)  # fmt: skip

NAMES = tuple(category.name for category in CATEGORIES)
TAGS = tuple(tag for category in CATEGORIES for tag in category.tags)
