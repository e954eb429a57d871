"""The words of pairing codes: 256 that are told apart when read aloud over a phone.

Any two differ in at least three letters and within their first four, so a slip of one is noticed and not another word.
"""

from typing import Final

WORDS: Final = tuple(
    """
    abacus acorn album almond alpine amber anchor antler apple apron atlas aurora autumn badger bakery bamboo
    banjo barley basil basket beacon beaver berry bonnet bottle branch breeze brick bridge bumble butter cabin
    cactus camel candle canvas canyon cargo carpet cashew cedar celery cement chess cinema circus clover cobalt
    coffee condor copper coyote crater dahlia daisy denim desert dolmen domino donkey donut dragon dynamo eagle
    earth echo elbow engine fabric feather fender fiddle fjord flannel flint flute forest forge fossil galaxy
    garage garden garlic gazelle geyser ginger giraffe glacier gnome goblet gondola granite gravel guitar
    hammock hamster harbor harp harvest hedge helmet hickory horizon hotel hurdle iceberg igloo igneous indigo
    island ivory jaguar jasmine jelly jigsaw judo juice jungle juniper kayak kernel kimono kitchen koala lace
    lagoon lantern lemon leopard library lilac linen lizard llama lobster locket lotus lynx magnet mammoth
    marble meadow mentor mimosa mirror mitten monsoon moose mosaic muffin mustard napkin nectar needle nickel
    nomad nutmeg oboe ocean octopus olive onion orbit orchid ostrich oxygen pancake papaya parrot peacock pebble
    pecan penguin piano pickle pigeon pillow pirate planet polar pony prairie pretzel prism pudding pumpkin
    puppet puzzle quail quarry rabbit radish raisin rhino rhubarb ribbon river rudder rust saffron sailor sandal
    saturn scarf sesame shrimp sketch sloth snorkel spider spinach spruce squid stadium statue stork sugar
    summit sunset swallow tavern teak teapot temple thistle thunder tofu tomato topaz trolley truffle trumpet
    tuba tulip tundra tunnel vanilla vault vinegar violet volcano vulture waffle walkway wallaby walnut weasel
    whisker window yacht yogurt zebra zigzag zinc zircon zodiac
    """.split()  # noqa: SIM905 as a list, they would take 256 lines
)
