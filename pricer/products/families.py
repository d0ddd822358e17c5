"""What the built-in catalogue sells: brands, units, specifications and families of products."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

# Made-up brands and what each does to a price.
BRANDS = {
    "Aurelis": 1.27, "Castellane": 1.25, "Nordvik": 1.22, "Kestrel & Vale": 1.19,
    "Halden": 1.13, "Tessaro": 1.10, "Okami Works": 1.09, "Lumenor": 1.07,
    "Fernhill": 1.01, "Dalewood": 1.00, "Corvane": 1.00, "Pinewick": 0.98,
    "Rovanta": 0.96, "Stellaby": 0.94, "Baxley": 0.92, "Quickfern": 0.90,
    "Zuvo": 0.85, "Eazylife": 0.82, "PrimePick": 0.80, "ValueNest": 0.77,
}  # fmt: skip


Wording = Callable[[float], str]


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if value < 10 else 1}f}".rstrip("0").rstrip(".")


def _unit(*forms: str, factor: float = 1) -> tuple[Wording, ...]:
    """Return wordings of a value times `factor`, one for each form, `#` standing for the number."""
    return tuple(
        lambda value, form=form: form.replace("#", _number(value * factor)) for form in forms
    )


# The same quantity in different words and units; the first key of a spec's unit.
UNITS: dict[str, tuple[Wording, ...]] = {
    "inch": _unit("#-inch", "#''", "# in") + _unit("# cm", factor=2.54),
    "cm": _unit("# cm", "#cm") + _unit("# in", factor=1 / 2.54),
    "m": _unit("# m", "#-meter") + _unit("# ft", "#-foot", factor=3.2808),
    "litre": _unit("# L", "# litre", "#-liter") + _unit("# qt", factor=1.0567),
    "ml": _unit("# ml", "#ml") + _unit("# fl oz", factor=0.0338),
    "gram": _unit("# g", "#g") + _unit("# oz", factor=0.03527),
    "kg": _unit("# kg", "#kg") + _unit("# lb", "# pounds", factor=2.2046),
    "watt": _unit("# W", "#W", "#-watt"),
    "volt": _unit("# V", "#V", "#-volt"),
    "gb": _unit("# GB", "#GB"),
    "mah": _unit("# mAh", "#mAh"),
    "hour": _unit("# hours of battery", "up to # h of use", "#-hour battery"),
    "mp": _unit("# MP", "#MP", "# megapixels"),
    "lumen": _unit("# lumens", "# lm"),
    "btu": _unit("# BTU", "#-BTU"),
    "rpm": _unit("# rpm", "#RPM"),
    "hz": _unit("# Hz", "#Hz"),
    "pack": _unit("pack of #", "#-pack", "set of #", "# pieces", "# count"),
    "piece": _unit("# pieces", "#-piece", "# pcs"),
    "person": _unit("for # people", "#-person", "sleeps #"),
    "sheet": _unit("# sheets", "#-sheet"),
    "key": _unit("# keys", "#-key"),
    "gear": _unit("# gears", "#-speed"),
    "thread": _unit("# thread count", "#TC"),
    "carat": _unit("# ct", "# carat"),
    "drawer": _unit("# drawers", "#-drawer"),
    "channel": _unit("# channels", "#-channel"),
    "stitch": _unit("# stitches", "#-stitch"),
    "color": _unit("# colors", "#-color"),
    "tablet": _unit("# tablets", "# capsules", "#ct"),
}


@dataclass(frozen=True)
class Spec:
    """One fact about a product: its values, what each does to the price, and how it is worded."""

    label: str
    factors: dict[str | float, float]
    unit: str | None = None

    def wording(self, value: str | float, rng: random.Random) -> str:
        """Return one of the ways to say `value`."""
        if isinstance(value, str):
            return rng.choice(value.split("|"))
        return rng.choice(UNITS[self.unit or ""])(value)


def amount(label: str, unit: str, power: float, *values: float) -> Spec:
    """Return a quantity: the price goes with (value / middle value) to a power."""
    middle = median(values)
    return Spec(label, {value: (value / middle) ** power for value in values}, unit)


def choice(label: str, **factors: float) -> Spec:
    """Return a quality: each value has a factor; `_` stands for a space, `__or__` for a synonym."""
    return Spec(
        label,
        {k.replace("__or__", "|").replace("_", " "): factor for k, factor in factors.items()},
    )


def pack(*counts: int) -> Spec:
    """Return how many come together; more cost less each. A single one goes unsaid."""
    return Spec("Quantity", {float(n): n**0.7 for n in counts}, "pack")


@dataclass(frozen=True)
class Family:
    """A kind of product. `price` is for middle values and a brand factor of one, in USD."""

    names: str
    price: float
    specs: tuple[Spec, ...]
    accessory_of: str | None = None


def family(names: str, price: float, *specs: Spec, accessory_of: str | None = None) -> Family:
    """Return a family; an accessory's text also names a product it fits."""
    return Family(names, price, specs, accessory_of)


METAL = choice("Material", plastic=0.83, aluminum=1.0, stainless_steel__or__inox=1.17, brass=1.28)
WOOD = choice("Material", MDF__or__engineered_wood=0.8, pine=0.92, oak=1.2, walnut=1.36)
FABRIC = choice("Material", polyester=0.83, cotton=1.0, linen=1.17, silk=1.59, wool=1.32)
LEATHER = choice("Material", faux_leather__or__PU_leather=0.83, nylon=0.89, genuine_leather=1.32)
STORAGE = amount("Storage", "gb", 0.24, 64, 128, 256, 512, 1024)
SCREEN = choice("Panel", LCD=0.92, IPS=1.0, OLED=1.32)
WIRELESS = choice("Connection", wired=0.89, Bluetooth__or__wireless=1.1)
CORDLESS = choice("Power source", corded=0.89, cordless__or__battery_powered=1.15)
BATTERY = amount("Battery life", "hour", 0.18, 8, 16, 24, 40)

CATALOG: dict[str, tuple[Family, ...]] = {
    "Kitchen Appliances": (
        family(
            "electric kettle|kettle", 34, amount("Capacity", "litre", 0.21, 0.8, 1.2, 1.7), METAL
        ),
        family(
            "coffee maker|coffee machine",
            75,
            amount("Capacity", "litre", 0.21, 0.6, 1.2, 1.8),
            choice("Type", drip=0.77, pod__or__capsule=0.95, espresso=1.51),
        ),
        family(
            "blender",
            62,
            amount("Power", "watt", 0.32, 300, 600, 1000, 1500),
            amount("Jar", "litre", 0.16, 0.6, 1.5, 2),
        ),
        family(
            "toaster oven|countertop oven",
            92,
            amount("Capacity", "litre", 0.32, 10, 20, 30),
            choice("Control", manual_dial=0.89, digital_display=1.12),
        ),
        family(
            "kettle descaler|descaling tablets",
            8,
            amount("Count", "tablet", 0.26, 6, 12, 36),
            accessory_of="electric kettle",
        ),
    ),
    "Cookware": (
        family(
            "frying pan|skillet",
            32,
            amount("Diameter", "cm", 0.47, 20, 24, 28, 32),
            choice("Material", aluminum=0.83, cast_iron=1.05, copper=1.59),
        ),
        family(
            "cookware set|pots and pans set",
            130,
            amount("Pieces", "piece", 0.37, 5, 8, 12),
            choice("Material", nonstick=0.83, stainless_steel=1.05, tri_ply__or__clad_steel=1.4),
        ),
        family(
            "chef's knife|kitchen knife",
            42,
            amount("Blade", "cm", 0.26, 15, 20, 25),
            choice("Steel", carbon_steel=0.89, German_steel=1.1, Damascus=1.51),
        ),
        family(
            "food storage containers",
            19,
            pack(3, 6, 10),
            choice("Material", plastic=0.83, glass=1.2),
        ),
    ),
    "Computers & Tablets": (
        family(
            "laptop|notebook computer",
            560,
            amount("Screen", "inch", 0.16, 13.3, 14, 15.6, 17.3),
            STORAGE,
            amount("Memory", "gb", 0.18, 4, 8, 16, 32),
        ),
        family("tablet", 230, amount("Screen", "inch", 0.47, 7, 8, 10.1, 12.9), STORAGE),
        family(
            "mini PC|mini desktop computer",
            310,
            STORAGE,
            amount("Memory", "gb", 0.21, 4, 8, 16, 32),
        ),
        family(
            "laptop sleeve|laptop case",
            19,
            amount("Fits", "inch", 0.16, 13.3, 14, 15.6),
            LEATHER,
            accessory_of="laptop",
        ),
        family(
            "tablet stylus|stylus pen",
            22,
            choice("Tip", rubber=0.7, fine__or__precision=1.24),
            accessory_of="tablet",
        ),
    ),
    "Computer Accessories": (
        family(
            "monitor|computer display",
            190,
            amount("Screen", "inch", 0.73, 21.5, 24, 27, 32),
            SCREEN,
            amount("Refresh rate", "hz", 0.18, 60, 75, 144, 240),
        ),
        family(
            "solid state drive|SSD",
            78,
            amount("Capacity", "gb", 0.39, 256, 512, 1024, 2048),
            choice("Interface", SATA=0.92, NVMe=1.07),
        ),
        family(
            "mechanical keyboard|keyboard", 58, amount("Layout", "key", 0.21, 61, 87, 104), WIRELESS
        ),
        family(
            "wireless mouse|mouse",
            24,
            choice("Sensor", optical=0.89, laser=1.1),
            choice("Shape", standard=0.95, ergonomic__or__vertical=1.2),
        ),
        family(
            "USB cable|charging cable", 9, amount("Length", "m", 0.21, 0.5, 1, 2, 3), pack(1, 2, 3)
        ),
    ),
    "Cell Phones": (
        family(
            "smartphone|mobile phone",
            330,
            STORAGE,
            SCREEN,
            amount("Camera", "mp", 0.13, 12, 48, 108),
        ),
        family("phone case|protective phone cover", 14, LEATHER, accessory_of="smartphone"),
        family(
            "screen protector",
            8,
            pack(1, 2, 3),
            choice("Material", film=0.77, tempered_glass=1.1),
            accessory_of="smartphone",
        ),
        family(
            "power bank|portable charger",
            29,
            amount("Capacity", "mah", 0.32, 5000, 10000, 20000, 30000),
        ),
        family(
            "phone charger|wall charger",
            17,
            amount("Power", "watt", 0.26, 10, 20, 45, 65),
            pack(1, 2),
        ),
    ),
    "Headphones & Audio": (
        family(
            "over-ear headphones|headphones",
            85,
            WIRELESS,
            BATTERY,
            choice("Noise", passive=0.86, active_noise_cancelling__or__ANC=1.28),
        ),
        family("earbuds|in-ear headphones", 45, WIRELESS, BATTERY),
        family(
            "portable speaker|Bluetooth speaker",
            55,
            amount("Output", "watt", 0.29, 5, 10, 20, 60),
            BATTERY,
        ),
        family(
            "turntable|record player",
            165,
            choice("Drive", belt_drive=0.89, direct_drive=1.32),
            WIRELESS,
        ),
        family(
            "ear pads|replacement ear cushions",
            13,
            pack(1, 2),
            LEATHER,
            accessory_of="over-ear headphones",
        ),
    ),
    "TV & Home Theater": (
        family(
            "television|smart TV",
            390,
            amount("Screen", "inch", 0.79, 32, 43, 50, 55, 65),
            choice("Panel", LED=0.89, QLED=1.1, OLED=1.44),
        ),
        family(
            "soundbar",
            150,
            amount("Power", "watt", 0.26, 60, 120, 300),
            amount("Layout", "channel", 0.16, 2, 3, 5),
        ),
        family(
            "projector",
            240,
            amount("Brightness", "lumen", 0.32, 1500, 3000, 5000),
            choice("Resolution", HD_ready=0.77, Full_HD__or__FHD=1.0, UHD__or__4K=1.48),
        ),
        family(
            "TV wall mount|TV bracket",
            36,
            amount("Fits up to", "inch", 0.26, 42, 55, 75),
            choice("Movement", fixed=0.77, tilting=0.95, full_motion=1.28),
            accessory_of="television",
        ),
        family(
            "HDMI cable", 11, amount("Length", "m", 0.26, 1, 2, 5, 10), accessory_of="projector"
        ),
    ),
    "Cameras & Photo": (
        family(
            "mirrorless camera|digital camera",
            620,
            amount("Sensor", "mp", 0.21, 16, 24, 33),
            choice("Kit", body_only=0.92, with_lens=1.07),
        ),
        family(
            "action camera",
            170,
            amount("Sensor", "mp", 0.21, 8, 12, 20),
            choice("Housing", splash_proof=0.89, waterproof=1.12),
        ),
        family(
            "tripod",
            58,
            amount("Height", "cm", 0.32, 50, 120, 165),
            choice("Material", aluminum=0.89, carbon_fiber=1.48),
        ),
        family(
            "camera battery|replacement battery",
            24,
            amount("Capacity", "mah", 0.21, 900, 1500, 2200),
            pack(1, 2),
            accessory_of="mirrorless camera",
        ),
        family(
            "camera bag",
            46,
            amount("Volume", "litre", 0.21, 5, 10, 20),
            LEATHER,
            accessory_of="mirrorless camera",
        ),
    ),
    "Musical Instruments": (
        family(
            "acoustic guitar",
            190,
            WOOD,
            choice("Size", half_size=0.83, three_quarter=0.92, full_size=1.07),
        ),
        family(
            "digital piano|keyboard piano",
            260,
            amount("Keys", "key", 0.68, 49, 61, 76, 88),
            choice("Action", unweighted=0.89, weighted__or__hammer_action=1.24),
        ),
        family("ukulele", 62, WOOD),
        family(
            "guitar strings",
            10,
            pack(1, 3, 5),
            choice("Material", nylon=0.89, bronze=1.05, nickel=0.97),
            accessory_of="acoustic guitar",
        ),
        family(
            "guitar amplifier|amp",
            145,
            amount("Power", "watt", 0.32, 10, 20, 40, 100),
            choice("Type", solid_state=0.89, tube__or__valve=1.4),
        ),
    ),
    "Video Games": (
        family(
            "game console|gaming console",
            330,
            STORAGE,
            choice("Form", handheld=0.89, home_console=1.07),
        ),
        family(
            "game controller|gamepad",
            42,
            WIRELESS,
            choice("Edition", standard=0.92, pro__or__elite=1.4),
        ),
        family("gaming headset", 58, WIRELESS, choice("Sound", stereo=0.89, surround=1.15)),
        family(
            "controller skin|silicone grip cover", 9, pack(1, 2), accessory_of="game controller"
        ),
    ),
    "Power Tools": (
        family(
            "drill driver|power drill",
            88,
            amount("Voltage", "volt", 0.42, 12, 18, 20),
            choice("Motor", brushed=0.89, brushless=1.17),
            choice("Kit", tool_only=0.83, with_two_batteries=1.2),
        ),
        family("circular saw", 98, amount("Power", "watt", 0.26, 900, 1200, 1800), CORDLESS),
        family(
            "random orbital sander|sander",
            56,
            amount("Power", "watt", 0.26, 200, 300, 450),
            CORDLESS,
        ),
        family(
            "drill bit set",
            23,
            amount("Pieces", "piece", 0.32, 10, 20, 50, 100),
            choice("Steel", high_speed_steel=0.89, titanium_coated=1.02, cobalt=1.36),
            accessory_of="drill driver",
        ),
        family("air compressor", 165, amount("Tank", "litre", 0.24, 6, 24, 50)),
    ),
    "Hand Tools": (
        family(
            "socket set|socket wrench set",
            58,
            amount("Pieces", "piece", 0.32, 24, 46, 108, 200),
            choice("Steel", carbon_steel=0.86, chrome_vanadium=1.1),
        ),
        family(
            "hammer",
            19,
            choice("Handle", wood=0.89, fiberglass=1.0, steel=1.15),
            amount("Head", "gram", 0.21, 300, 450, 600),
        ),
        family(
            "tool box|tool chest",
            75,
            amount("Width", "cm", 0.37, 40, 55, 70),
            METAL,
            amount("Drawers", "drawer", 0.21, 2, 4, 6),
        ),
        family("wood screws", 11, amount("Count", "piece", 0.26, 50, 100, 250, 500), METAL),
    ),
    "Automotive": (
        family(
            "car floor mats",
            52,
            pack(2, 4),
            choice("Material", carpet=0.83, rubber=0.97, TPE_custom_fit=1.32),
        ),
        family(
            "dash cam",
            88,
            choice("Resolution", Full_HD__or__FHD=0.86, QHD__or__1440p=1.05, UHD__or__4K=1.28),
            choice("Cameras", front_only=0.89, front_and_rear=1.15),
        ),
        family("jump starter", 82, amount("Capacity", "mah", 0.32, 8000, 12000, 20000)),
        family("wiper blades", 21, amount("Length", "inch", 0.16, 16, 20, 26), pack(1, 2)),
        family(
            "motor oil|engine oil",
            33,
            amount("Volume", "litre", 0.42, 1, 4, 5),
            choice("Type", conventional=0.86, full_synthetic=1.2),
        ),
    ),
    "Furniture": (
        family(
            "desk|writing desk",
            170,
            amount("Width", "cm", 0.52, 80, 120, 160),
            WOOD,
            choice("Height", fixed=0.89, height_adjustable__or__sit_stand=1.32),
        ),
        family("bookcase|bookshelf", 115, amount("Height", "cm", 0.42, 80, 120, 180), WOOD),
        family("office chair|desk chair", 150, choice("Back", mesh=0.95, padded=1.05), LEATHER),
        family(
            "sofa|couch",
            520,
            choice("Seats", two_seater=0.86, three_seater=1.02, sectional=1.24),
            FABRIC,
        ),
        family("furniture pads|felt pads", 7, pack(8, 16, 48), accessory_of="desk"),
    ),
    "Bedding & Bath": (
        family(
            "sheet set|bed sheets",
            48,
            choice("Size", twin=0.86, queen=1.02, king=1.12),
            FABRIC,
            amount("Weave", "thread", 0.21, 200, 400, 800),
        ),
        family(
            "mattress",
            380,
            choice("Size", twin=0.8, queen=1.05, king=1.2),
            amount("Thickness", "cm", 0.32, 15, 20, 30),
            choice("Core", spring=0.89, memory_foam=1.05, latex=1.28),
        ),
        family(
            "pillow",
            27,
            choice("Filling", polyester_fiber=0.8, memory_foam=1.1, goose_down=1.44),
            pack(1, 2),
        ),
        family("bath towels|towel set", 29, pack(2, 4, 6), FABRIC),
        family("shower curtain", 17, FABRIC),
    ),
    "Lighting": (
        family(
            "LED bulbs|light bulbs",
            9,
            pack(2, 4, 10),
            amount("Brightness", "lumen", 0.16, 470, 800, 1500),
        ),
        family("floor lamp", 78, METAL, choice("Light", single_head=0.92, three_heads=1.15)),
        family("table lamp|desk lamp", 38, METAL, choice("Control", switch=0.92, touch_dimmer=1.1)),
        family(
            "chandelier|pendant light",
            160,
            choice("Shade", metal=0.89, glass=1.02, crystal=1.51),
            choice("Arms", three_lights=0.86, five_lights=1.0, eight_lights=1.2),
        ),
        family(
            "flashlight|torch", 25, amount("Brightness", "lumen", 0.21, 300, 1000, 3000), pack(1, 2)
        ),
    ),
    "Heating & Cooling": (
        family(
            "space heater|electric heater",
            58,
            amount("Power", "watt", 0.32, 750, 1500, 2000),
            choice("Type", fan_heater=0.83, ceramic=1.0, oil_filled=1.2),
        ),
        family("portable air conditioner", 360, amount("Cooling", "btu", 0.37, 8000, 10000, 14000)),
        family(
            "tower fan|fan",
            56,
            amount("Height", "cm", 0.32, 60, 90, 110),
            choice("Control", knob=0.86, remote=1.1),
        ),
        family(
            "air purifier",
            125,
            choice("Filter", carbon=0.86, HEPA=1.12),
            choice("Room", small_room=0.8, large_room=1.24),
        ),
        family(
            "air purifier filter|replacement filter",
            26,
            pack(1, 2, 4),
            choice("Filter", carbon=0.86, HEPA=1.12),
            accessory_of="air purifier",
        ),
    ),
    "Garden & Outdoor": (
        family("lawn mower", 290, amount("Cutting width", "cm", 0.52, 33, 40, 46), CORDLESS),
        family(
            "garden hose",
            33,
            amount("Length", "m", 0.42, 7.5, 15, 30),
            choice("Material", vinyl=0.86, rubber=1.2),
        ),
        family("patio umbrella|parasol", 72, amount("Diameter", "m", 0.63, 2, 2.7, 3.3), FABRIC),
        family(
            "gas grill|barbecue",
            270,
            choice("Burners", two_burners=0.83, three_burners=1.0, four_burners=1.15),
            choice("Body", enameled_steel=0.92, stainless_steel=1.15),
        ),
        family(
            "grill cover",
            27,
            choice("Material", polyester=0.89, heavy_duty_vinyl=1.12),
            accessory_of="gas grill",
        ),
    ),
    "Sports & Fitness": (
        family(
            "dumbbells",
            52,
            amount("Weight", "kg", 0.44, 2, 5, 10, 20),
            pack(1, 2),
            choice("Coating", bare_iron=0.89, rubber=1.05),
        ),
        family(
            "yoga mat",
            25,
            amount("Thickness", "cm", 0.21, 0.4, 0.6, 1.2),
            choice("Material", PVC=0.86, cork=1.28),
        ),
        family(
            "treadmill",
            560,
            choice("Motor", two_horsepower=0.86, three_horsepower=1.1),
            choice("Deck", flat=0.92, incline=1.1),
        ),
        family(
            "mountain bike|bicycle",
            430,
            choice("Frame", steel=0.8, aluminum=1.0, carbon=1.44),
            amount("Gears", "gear", 0.16, 7, 18, 24),
        ),
        family(
            "bike water bottle|sports bottle",
            13,
            amount("Volume", "ml", 0.21, 500, 750, 1000),
            METAL,
            accessory_of="mountain bike",
        ),
    ),
    "Camping & Hiking": (
        family(
            "tent|camping tent",
            140,
            amount("Capacity", "person", 0.37, 1, 2, 4, 8),
            choice("Seasons", three_season=0.92, four_season=1.32),
        ),
        family(
            "sleeping bag",
            62,
            choice("Filling", synthetic=0.86, down=1.48),
            choice("Rating", summer=0.86, winter=1.17),
        ),
        family("hiking backpack|rucksack", 88, amount("Volume", "litre", 0.32, 20, 40, 65)),
        family(
            "vacuum flask|insulated bottle",
            25,
            amount("Volume", "ml", 0.26, 350, 500, 1000),
            pack(1, 2),
        ),
        family("tent pegs|tent stakes", 12, pack(6, 12, 24), METAL, accessory_of="tent"),
    ),
    "Toys & Games": (
        family(
            "building blocks set|brick set",
            38,
            amount("Pieces", "piece", 0.39, 100, 300, 700, 1500),
        ),
        family("board game", 31, choice("Edition", travel=0.77, standard=1.0, deluxe=1.36)),
        family(
            "remote control car|RC car",
            52,
            choice("Scale", small_scale=0.77, large_scale=1.32),
            choice("Drive", two_wheel_drive=0.92, four_wheel_drive=1.15),
        ),
        family(
            "jigsaw puzzle",
            16,
            amount("Pieces", "piece", 0.21, 100, 500, 1000, 2000),
            choice("Material", cardboard=0.92, wood=1.32),
        ),
        family("plush toy|stuffed animal", 18, amount("Height", "cm", 0.47, 20, 35, 60, 100)),
    ),
    "Baby": (
        family(
            "stroller|pushchair",
            230,
            choice("Type", umbrella_fold=0.7, full_size=1.05, travel_system=1.36),
        ),
        family(
            "car seat|child car seat",
            165,
            choice("Stage", booster=0.7, infant=1.0, convertible=1.24),
        ),
        family("diapers|nappies", 25, amount("Count", "piece", 0.37, 24, 60, 120, 180)),
        family(
            "baby monitor",
            82,
            choice("Signal", audio_only=0.7, video=1.15),
            choice("Range", indoor=0.95, long_range=1.1),
        ),
        family("stroller cup holder", 11, pack(1, 2), accessory_of="stroller"),
    ),
    "Pet Supplies": (
        family(
            "dry dog food|dog kibble",
            32,
            amount("Weight", "kg", 0.42, 2, 6, 12, 18),
            choice("Recipe", chicken=0.95, salmon=1.07, grain_free=1.15),
        ),
        family("cat tree|cat tower", 68, amount("Height", "cm", 0.47, 60, 110, 160)),
        family(
            "dog bed",
            42,
            choice("Size", small=0.77, medium=0.95, large=1.2),
            choice("Filling", fiber=0.89, orthopedic_foam=1.24),
        ),
        family(
            "aquarium|fish tank",
            115,
            amount("Volume", "litre", 0.37, 20, 60, 120),
            choice("Kit", tank_only=0.86, with_filter_and_light=1.15),
        ),
        family(
            "dog leash",
            14,
            choice("Material", nylon=0.86, rope=0.97, leather=1.36),
            amount("Length", "m", 0.16, 1.2, 1.8, 3),
        ),
    ),
    "Beauty & Personal Care": (
        family(
            "hair dryer",
            46,
            amount("Power", "watt", 0.32, 1200, 1800, 2200),
            choice("Technology", standard=0.86, ionic=1.15),
        ),
        family("electric toothbrush", 58, BATTERY, choice("Type", rotating=0.92, sonic=1.1)),
        family(
            "face cream|moisturizer",
            22,
            amount("Volume", "ml", 0.32, 30, 50, 100),
            choice("Active", aloe=0.86, hyaluronic_acid=1.05, retinol=1.22),
        ),
        family("perfume|eau de parfum", 62, amount("Volume", "ml", 0.32, 30, 50, 100)),
        family(
            "toothbrush heads|replacement brush heads",
            17,
            pack(2, 4, 8),
            accessory_of="electric toothbrush",
        ),
    ),
    "Health & Household": (
        family(
            "blood pressure monitor",
            43,
            choice("Cuff", wrist=0.86, upper_arm=1.1),
            choice("Display", basic=0.92, Bluetooth=1.12),
        ),
        family(
            "vitamin D3 supplement|vitamin D3",
            14,
            amount("Count", "tablet", 0.29, 60, 120, 240, 365),
        ),
        family("laundry detergent", 16, amount("Volume", "litre", 0.42, 1, 2.5, 5)),
        family("massage gun", 92, BATTERY, choice("Motor", standard=0.86, high_torque=1.24)),
        family("paper towels", 13, pack(2, 6, 12)),
    ),
    "Office Products": (
        family(
            "laser printer|printer",
            190,
            choice("Color", monochrome=0.86, full_color=1.24),
            choice("Functions", print_only=0.89, all_in_one=1.15),
        ),
        family(
            "toner cartridge",
            46,
            choice("Yield", standard_yield=0.86, high_yield=1.2),
            pack(1, 2, 4),
            accessory_of="laser printer",
        ),
        family("paper shredder", 82, amount("Capacity", "sheet", 0.42, 6, 10, 18)),
        family("gel pens", 9, pack(4, 8, 12, 24)),
        family(
            "whiteboard",
            62,
            amount("Width", "cm", 0.52, 60, 90, 120, 180),
            choice("Surface", melamine=0.86, glass=1.28),
        ),
    ),
    "Clothing & Shoes": (
        family("jacket|coat", 92, FABRIC, choice("Lining", unlined=0.86, insulated=1.2)),
        family(
            "running shoes|sneakers",
            78,
            choice("Sole", foam=0.92, cushioned_gel=1.1, carbon_plate=1.44),
        ),
        family("t-shirts", 13, FABRIC, pack(1, 3, 5)),
        family(
            "boots|ankle boots", 105, LEATHER, choice("Weather", indoor_sole=0.92, waterproof=1.15)
        ),
        family("socks", 6, FABRIC, pack(1, 3, 6)),
    ),
    "Jewelry & Watches": (
        family("wristwatch|watch", 155, choice("Movement", quartz=0.83, automatic=1.4), LEATHER),
        family(
            "necklace|pendant necklace",
            95,
            choice(
                "Metal",
                stainless_steel=0.53,
                sterling_silver=0.83,
                gold_plated=0.89,
                solid_14k_gold=2.07,
            ),
        ),
        family(
            "stud earrings|earrings",
            58,
            choice("Metal", stainless_steel=0.62, sterling_silver=0.89, solid_14k_gold=1.93),
            amount("Stones", "carat", 0.26, 0.25, 0.5, 1),
        ),
        family("watch band|watch strap", 17, LEATHER, accessory_of="wristwatch"),
    ),
    "Grocery": (
        family(
            "coffee beans|whole bean coffee",
            17,
            amount("Weight", "gram", 0.44, 250, 500, 1000),
            choice("Kind", blend=0.92, single_origin=1.15),
        ),
        family(
            "olive oil|extra virgin olive oil", 19, amount("Volume", "ml", 0.44, 250, 500, 1000)
        ),
        family(
            "green tea|tea bags",
            8,
            amount("Count", "piece", 0.32, 20, 50, 100),
            choice("Grade", standard=0.89, organic=1.15),
        ),
        family(
            "protein powder",
            38,
            amount("Weight", "kg", 0.44, 0.5, 1, 2.3),
            choice("Source", soy=0.86, whey=1.0, whey_isolate=1.17),
        ),
        family("mixed nuts|roasted nuts", 13, amount("Weight", "gram", 0.42, 200, 500, 1000)),
    ),
    "Smart Home": (
        family(
            "security camera|surveillance camera",
            58,
            choice("Resolution", Full_HD__or__FHD=0.86, QHD__or__2K=1.05, UHD__or__4K=1.32),
            pack(1, 2, 4),
        ),
        family(
            "robot vacuum|robotic vacuum cleaner",
            270,
            choice("Navigation", random_path=0.77, laser_mapping=1.15),
            choice("Base", charging_dock=0.89, self_emptying=1.28),
        ),
        family("smart plug", 12, pack(1, 2, 4)),
        family(
            "video doorbell",
            105,
            CORDLESS,
            choice("Chime", without_chime=0.92, chime_included=1.07),
        ),
        family(
            "vacuum brush kit|replacement brushes", 18, pack(2, 4, 8), accessory_of="robot vacuum"
        ),
    ),
    "Arts & Crafts": (
        family(
            "acrylic paint set",
            23,
            amount("Colors", "color", 0.32, 12, 24, 48),
            choice("Grade", student_grade=0.86, artist_grade=1.28),
        ),
        family(
            "sewing machine",
            190,
            choice("Type", mechanical=0.83, computerized=1.28),
            amount("Stitches", "stitch", 0.11, 12, 60, 200),
        ),
        family("paint brushes", 12, pack(5, 10, 20), choice("Hair", synthetic=0.89, sable=1.36)),
        family("easel", 56, WOOD, choice("Stand", tabletop=0.73, floor_standing=1.2)),
        family("sewing machine needles", 7, pack(5, 10, 30), accessory_of="sewing machine"),
    ),
}
