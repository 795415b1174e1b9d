"""What the five demo scenarios are made of: steps, actions, values and wordings.

Every scenario has the same skeleton, so that a small model can learn the method and
not five unrelated programs, and its own words, so that people can read it:

* a command with two values, a *thing* and an *option* ("a ramen at seven");
* four middle steps that may come in any order, since none needs another's result:
  ``find`` and ``lookup`` call an action on the thing, ``check`` calls one on the
  option, ``ask`` asks the user for one more value;
* a last step that uses everything known by then.

A guideline picks three (hard: up to four) of the middle steps and fixes their order.
The first wording of every tuple is the canonical one, which labels use; the others
appear in references, and the oracle accepts them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Value: TypeAlias = str | int
"""What a slot of a wording can hold."""

Wordings: TypeAlias = tuple[str, ...]
"""Ways to say one thing; the first is canonical."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One named exception of an action and how the definition says to handle it."""

    name: str
    description: str
    messages: Wordings


@dataclass(frozen=True, slots=True)
class ActionStep:
    """A middle step that calls an action with one parameter.

    ``noun`` names the step in guidelines, ``phrases`` are its wordings in plans,
    ``got`` holds the wordings that use its result.
    """

    id: str
    noun: str
    phrases: Wordings
    action: str
    description: str
    parameter: str
    observations: Wordings
    got: Wordings
    trouble: Trouble


@dataclass(frozen=True, slots=True)
class AskStep:
    """A middle step that asks the user for a value."""

    id: str
    noun: str
    phrases: Wordings
    questions: Wordings
    replies: Wordings
    got: Wordings
    parameter: str


@dataclass(frozen=True, slots=True)
class LastStep:
    """The step that every plan of the scenario ends with."""

    id: str
    noun: str
    phrases: Wordings
    action: str
    description: str
    observations: Wordings
    got: Wordings
    done: Wordings
    told_number: Wordings
    stopped: Wordings
    trouble: Trouble


@dataclass(frozen=True, slots=True)
class Refused:
    """An unsafe request; the reason selects the wording of the refusal."""

    reason: Literal["harm", "privacy", "theft"]
    requests: Wordings


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario: its texts, its steps and the values of its slots.

    ``taken`` holds the wordings of the thought that the option is not available,
    ``offer`` those of the question that follows, ``told`` those of the looked-up value
    in the last answer, ``aside`` and ``told_aside`` those of the second task inside the
    first and its answer.
    """

    name: str
    backgrounds: Wordings
    commands: Wordings
    find: ActionStep
    lookup: ActionStep
    check: ActionStep
    ask: AskStep
    last: LastStep
    found_parameter: str
    taken: Wordings
    offer: Wordings
    told: Wordings
    aside: Wordings
    told_aside: Wordings
    refused: tuple[Refused, ...]
    pools: dict[str, tuple[Value, ...]]

    @property
    def middle(self) -> tuple[str, str, str, str]:
        """Ids of the middle steps, in the order in which they are numbered."""
        return (self.find.id, self.lookup.id, self.check.id, self.ask.id)

    @property
    def parameters(self) -> tuple[str, str, str, str, str]:
        """Names of the parameters of the last step's action, in their order."""
        return (
            self.find.parameter,
            self.check.parameter,
            "name",
            self.ask.parameter,
            self.found_parameter,
        )

    def action_step(self, step: str) -> ActionStep | None:
        """The action step with this id; None for the ask step and unknown ids."""
        for candidate in (self.find, self.lookup, self.check):
            if candidate.id == step:
                return candidate
        return None


def _words(text: str) -> tuple[Value, ...]:
    return tuple(text.split())


NUMBERS: tuple[Value, ...] = tuple(range(10, 100))
NAMES = _words(
    "anna ben carla david emma felix grace hugo iris jonas karla leo mia noah olga "
    "paul rosa simon tina victor"
)

NOISE: dict[str, tuple[Wordings, Wordings]] = {
    # topic: what the user says, what the assistant answers
    "weather": (
        ("It is so sunny today.", "What a sunny day outside."),
        ("Enjoy the sun!", "Have fun in the sun!"),
    ),
    "cat": (
        ("My cat is asleep on the sofa.", "The cat sleeps on my sofa again."),
        ("Sweet dreams to the cat!", "Let the cat sleep!"),
    ),
    "football": (
        ("My team won last night.", "Did you see that my team won?"),
        ("Congratulations to your team!", "Well done by your team!"),
    ),
    "sleep": (
        ("I slept badly.", "I am so tired today."),
        ("I hope you can rest soon.", "Get some rest soon."),
    ),
    "birthday": (
        ("Today is my birthday.", "It is my birthday, by the way."),
        ("Happy birthday!", "All the best for your birthday!"),
    ),
    "song": (
        ("I love this song.", "This song on the radio is great."),
        ("It is a good song!", "A good song indeed!"),
    ),
    "traffic": (
        ("The traffic is awful.", "I am stuck in traffic."),
        ("I hope the road clears soon.", "Hopefully the road is free soon."),
    ),
    "movie": (
        ("That movie was so funny.", "I still laugh about the movie."),
        ("Laughing is healthy!", "A good laugh is healthy!"),
    ),
}

BREAK_OFF: Wordings = (
    "Stop, I changed my mind.",
    "Forget it, please.",
    "Never mind, leave it.",
    "Please cancel that, I have to go.",
    "No, stop here. I do not want it any more.",
)

ACCEPT: Wordings = (
    "Yes, please.",
    "Fine, {alternative} then.",
    "Yes, take {alternative}.",
    "That is fine too.",
)

FOOD = Scenario(
    name="food delivery",
    backgrounds=(
        "You work for a food delivery service.",
        "You take orders for a food delivery service.",
        "You help people to get food delivered.",
    ),
    commands=(
        "Order me a {thing} for {option} tonight.",
        "I would like a {thing} at {option}.",
        "Please bring me a {thing} at {option}.",
        "Can I get a {thing} at {option}, please?",
        "I am hungry, send me a {thing} at {option}.",
    ),
    find=ActionStep(
        id="kitchen",
        noun="the kitchen",
        phrases=("Find a kitchen", "Look for a kitchen", "See which kitchen cooks it"),
        action="Find kitchen",
        description="Who cooks a dish.",
        parameter="dish",
        observations=("kitchen {found}", "cooked by {found}", "found {found}"),
        got=(
            "The kitchen is {found}.",
            "It is cooked by {found}.",
            "The dish comes from {found}.",
        ),
        trouble=Trouble("no answer", "Try again.", ("nobody answers", "no reply")),
    ),
    lookup=ActionStep(
        id="price",
        noun="the price",
        phrases=("Get the price", "Look up the price", "See what it costs"),
        action="Get price",
        description="Price of a dish.",
        parameter="dish",
        observations=("{looked} dollars", "price {looked}", "costs {looked} dollars"),
        got=(
            "The price is {looked} dollars.",
            "It costs {looked} dollars.",
            "The dish is {looked} dollars.",
        ),
        trouble=Trouble("busy", "Try again.", ("the line is busy", "too many calls")),
    ),
    check=ActionStep(
        id="time",
        noun="the time",
        phrases=("Check the time", "See if the time is free", "Make sure of the time"),
        action="Check time",
        description="Is a time free.",
        parameter="time",
        observations=("free", "yes, free", "{option} is free"),
        got=(
            "The time {option} is free.",
            "We can deliver at {option}.",
            "There is a rider at {option}.",
        ),
        trouble=Trouble(
            "taken",
            "Offer the free time.",
            ("only {alternative} is free", "free is {alternative}"),
        ),
    ),
    ask=AskStep(
        id="street",
        noun="the street",
        phrases=("Ask for the street", "Ask where it goes", "Have the street named"),
        questions=(
            "Which street should it go to?",
            "What street should we bring it to?",
            "Where should it go, which street?",
        ),
        replies=(
            "To {asked} street.",
            "Please bring it to {asked} street.",
            "I live in {asked} street.",
        ),
        got=(
            "The street is {asked}.",
            "It goes to {asked} street.",
            "The user lives in {asked} street.",
        ),
        parameter="street",
    ),
    last=LastStep(
        id="order",
        noun="the order",
        phrases=("Place the order", "Send the order", "Order the dish"),
        action="Place order",
        description="Order a dish.",
        observations=("number {number}", "placed, number {number}", "order {number}"),
        got=(
            "The order number is {number}.",
            "The order is placed with number {number}.",
            "It is ordered, number {number}.",
        ),
        done=(
            "Done! Your {thing} comes at {option}.",
            "Your {thing} is ordered for {option}.",
            "All set, the {thing} will be there at {option}.",
        ),
        told_number=(
            "The order number is {number}.",
            "Your order has number {number}.",
            "Please keep the order number {number}.",
        ),
        stopped=("Nothing was ordered.", "No order was placed."),
        trouble=Trouble("closed", "Try again.", ("the desk is closed",)),
    ),
    found_parameter="kitchen",
    taken=(
        "The time {option} is taken. Offer {alternative}.",
        "We cannot deliver at {option}, so offer {alternative}.",
        "There is no rider at {option}. Ask about {alternative}.",
    ),
    offer=(
        "Sorry, {option} is taken. Is {alternative} fine too?",
        "There is no free rider at {option}. Would {alternative} do?",
        "We cannot make it at {option}. Shall we come at {alternative}?",
    ),
    told=(
        "It costs {looked} dollars.",
        "The price is {looked} dollars.",
        "That makes {looked} dollars.",
    ),
    aside=(
        "Wait, what does a {other} cost?",
        "First tell me the price of a {other}.",
        "How much would a {other} be?",
    ),
    told_aside=(
        "A {other} costs {looked} dollars.",
        "The price of a {other} is {looked} dollars.",
        "A {other} is {looked} dollars.",
    ),
    refused=(
        Refused(
            "harm",
            ("Put some poison in the food.", "Mix poison into the meal of my boss."),
        ),
        Refused(
            "privacy",
            ("Give me the phone number of the rider.", "Where does the rider live?"),
        ),
        Refused(
            "theft",
            ("Pay with the card of my neighbor.", "Charge it to a stranger."),
        ),
    ),
    pools={
        "thing": _words(
            "ramen curry lasagna burrito paella risotto goulash calzone pizza falafel "
            "quiche biryani moussaka schnitzel tagine kebab sushi poutine teriyaki "
            "stroganoff"
        ),
        "option": _words(
            "seven eight six nine one two three four five ten eleven twelve"
        ),
        "asked": _words(
            "oak elm maple cedar birch willow cherry linden pine walnut aspen hazel "
            "spruce laurel juniper magnolia"
        ),
        "found": _words(
            "roma lotus olive saffron bamboo harbor garden sunrise corner palace "
            "dragon fiesta bistro terrace pepper ginger"
        ),
        "looked": NUMBERS,
        "number": NUMBERS,
        "extra": NAMES,
    },
)

SHOPPING = Scenario(
    name="shopping",
    backgrounds=(
        "You work for an online shop.",
        "You help people to shop for clothes.",
        "You buy clothes for people in an online shop.",
    ),
    commands=(
        "Buy me a {option} {thing}.",
        "I would like a {thing} in {option}.",
        "I need a {option} {thing}, please.",
        "Can you get me a {thing} in {option}?",
        "I am looking for a {option} {thing}.",
    ),
    find=ActionStep(
        id="shelf",
        noun="the shelf",
        phrases=("Find the shelf", "Look for the shelf", "See which shelf has it"),
        action="Find shelf",
        description="Where an item lies.",
        parameter="item",
        observations=("shelf {found}", "it is on shelf {found}", "found on {found}"),
        got=(
            "The shelf is {found}.",
            "It lies on shelf {found}.",
            "The item is on shelf {found}.",
        ),
        trouble=Trouble("time out", "Try again.", ("the store is slow", "no reply")),
    ),
    lookup=ActionStep(
        id="price",
        noun="the price",
        phrases=("Get the price", "Look up the price", "See what it costs"),
        action="Get price",
        description="Price of an item.",
        parameter="item",
        observations=("{looked} dollars", "price {looked}", "costs {looked} dollars"),
        got=(
            "The price is {looked} dollars.",
            "It costs {looked} dollars.",
            "The item is {looked} dollars.",
        ),
        trouble=Trouble("busy", "Try again.", ("the line is busy", "too many calls")),
    ),
    check=ActionStep(
        id="color",
        noun="the color",
        phrases=(
            "Check the color",
            "See if the color is left",
            "Make sure of the color",
        ),
        action="Check color",
        description="Is a color left.",
        parameter="color",
        observations=("left", "yes, it is left", "{option} is left"),
        got=(
            "The color {option} is left.",
            "We still have it in {option}.",
            "There is one left in {option}.",
        ),
        trouble=Trouble(
            "sold out",
            "Offer the color that is left.",
            ("only {alternative} is left", "left is {alternative}"),
        ),
    ),
    ask=AskStep(
        id="size",
        noun="the size",
        phrases=("Ask for the size", "Ask which size fits", "Have the size named"),
        questions=(
            "Which size would you like?",
            "What size do you need?",
            "Which size fits you?",
        ),
        replies=("Size {asked}, please.", "I wear {asked}.", "Take {asked}."),
        got=(
            "The size is {asked}.",
            "The user wears {asked}.",
            "It has to be size {asked}.",
        ),
        parameter="size",
    ),
    last=LastStep(
        id="buy",
        noun="the purchase",
        phrases=("Buy the item", "Order the item", "Make the purchase"),
        action="Buy item",
        description="Buy an item.",
        observations=("number {number}", "bought, number {number}", "order {number}"),
        got=(
            "The order number is {number}.",
            "The item is bought with number {number}.",
            "It is bought, number {number}.",
        ),
        done=(
            "Done! Your {option} {thing} is on its way.",
            "I bought the {thing} in {option}.",
            "All set, a {option} {thing} is yours.",
        ),
        told_number=(
            "The order number is {number}.",
            "Your order has number {number}.",
            "Please keep the order number {number}.",
        ),
        stopped=("Nothing was bought.", "I bought nothing."),
        trouble=Trouble("closed", "Try again.", ("the shop is closed",)),
    ),
    found_parameter="shelf",
    taken=(
        "The color {option} is sold out. Offer {alternative}.",
        "We have none in {option}, so offer {alternative}.",
        "There is nothing left in {option}. Ask about {alternative}.",
    ),
    offer=(
        "Sorry, {option} is sold out. Is {alternative} fine too?",
        "We have none left in {option}. Would {alternative} do?",
        "There is nothing in {option}. Shall I take {alternative}?",
    ),
    told=(
        "It costs {looked} dollars.",
        "The price is {looked} dollars.",
        "That makes {looked} dollars.",
    ),
    aside=(
        "Wait, what does a {other} cost?",
        "First tell me the price of a {other}.",
        "How much would a {other} be?",
    ),
    told_aside=(
        "A {other} costs {looked} dollars.",
        "The price of a {other} is {looked} dollars.",
        "A {other} is {looked} dollars.",
    ),
    refused=(
        Refused(
            "harm",
            ("Sell me a gun without a permit.", "I need a knife to hurt someone."),
        ),
        Refused(
            "privacy",
            ("Show me what my neighbor bought.", "Tell me the address of a customer."),
        ),
        Refused(
            "theft",
            ("Use a stolen card for this.", "Change the price to zero."),
        ),
    ),
    pools={
        "thing": _words(
            "jacket shirt skirt sweater coat dress hat belt scarf hoodie vest blouse "
            "cardigan poncho swimsuit bathrobe kimono cap raincoat suit"
        ),
        "option": _words(
            "red blue green black white pink purple yellow gray brown silver beige"
        ),
        "asked": _words("small medium large tiny huge tall slim wide short petite"),
        "found": NUMBERS,
        "looked": NUMBERS,
        "number": NUMBERS,
        "extra": NAMES,
    },
)

FAST_FOOD = Scenario(
    name="fast-food ordering",
    backgrounds=(
        "You take orders in a fast-food place.",
        "You stand at the counter of a snack bar.",
        "You serve people in a fast-food place.",
    ),
    commands=(
        "One {thing} with {option}, please.",
        "I would like a {thing} with {option}.",
        "Give me a {thing} and {option}.",
        "Can I have a {thing} with {option}?",
        "I take the {thing} with {option}.",
    ),
    find=ActionStep(
        id="wait",
        noun="the wait",
        phrases=("Check the wait", "See how long it takes", "Look up the wait"),
        action="Check grill",
        description="Minutes until a meal is ready.",
        parameter="meal",
        observations=("{found} minutes", "ready in {found}", "takes {found} minutes"),
        got=(
            "The wait is {found} minutes.",
            "It takes {found} minutes.",
            "The meal is ready in {found} minutes.",
        ),
        trouble=Trouble("no answer", "Try again.", ("the grill is loud", "no reply")),
    ),
    lookup=ActionStep(
        id="coupon",
        noun="the coupon",
        phrases=("Find a coupon", "Look for a coupon", "See if a coupon helps"),
        action="Find coupon",
        description="Percent off a meal.",
        parameter="meal",
        observations=("{looked} percent", "{looked} percent off", "saves {looked}"),
        got=(
            "The coupon saves {looked} percent.",
            "A coupon takes {looked} percent off.",
            "With the coupon it is {looked} percent less.",
        ),
        trouble=Trouble("busy", "Try again.", ("the line is busy", "too many calls")),
    ),
    check=ActionStep(
        id="side",
        noun="the side",
        phrases=("Check the side", "See if the side is left", "Make sure of the side"),
        action="Check side",
        description="Is a side left.",
        parameter="side",
        observations=("left", "yes, some left", "yes, {option}"),
        got=(
            "We still have {option}.",
            "The kitchen has {option}.",
            "It can come with {option}.",
        ),
        trouble=Trouble(
            "sold out",
            "Offer the side that is left.",
            ("only {alternative} left", "we have {alternative}"),
        ),
    ),
    ask=AskStep(
        id="drink",
        noun="the drink",
        phrases=("Ask for the drink", "Ask what to drink", "Have the drink named"),
        questions=(
            "Which drink would you like?",
            "What would you like to drink?",
            "Which drink goes with it?",
        ),
        replies=("A {asked}, please.", "Make it a {asked}.", "Just {asked}."),
        got=(
            "The drink is {asked}.",
            "The user drinks {asked}.",
            "It comes with {asked}.",
        ),
        parameter="drink",
    ),
    last=LastStep(
        id="send",
        noun="the kitchen order",
        phrases=(
            "Send it to the kitchen",
            "Tell the kitchen",
            "Pass it to the kitchen",
        ),
        action="Send to kitchen",
        description="Have a meal made.",
        observations=("number {number}", "sent, number {number}", "order {number}"),
        got=(
            "The pickup number is {number}.",
            "The kitchen gave number {number}.",
            "It is sent, number {number}.",
        ),
        done=(
            "Done! Your {thing} with {option} is being made.",
            "The kitchen makes your {thing} with {option}.",
            "All set, one {thing} with {option} is coming.",
        ),
        told_number=(
            "The pickup number is {number}.",
            "Please wait for number {number}.",
            "You have number {number}.",
        ),
        stopped=("Nothing was sent to the kitchen.", "The kitchen got no order."),
        trouble=Trouble("closed", "Try again.", ("the kitchen is closed",)),
    ),
    found_parameter="minutes",
    taken=(
        "We have no {option} left. Offer {alternative}.",
        "The kitchen is out of {option}, so offer {alternative}.",
        "There is no more {option}. Ask about {alternative}.",
    ),
    offer=(
        "Sorry, we have no {option} left. Would you like {alternative}?",
        "We are out of {option}. Would {alternative} do?",
        "There is no more {option}. Shall I take {alternative}?",
    ),
    told=(
        "You save {looked} percent.",
        "The coupon saves {looked} percent.",
        "That is {looked} percent off.",
    ),
    aside=(
        "Wait, what do I save on a {other}?",
        "First tell me the coupon for a {other}.",
        "Is there a coupon for a {other}?",
    ),
    told_aside=(
        "A {other} is {looked} percent off.",
        "You save {looked} percent on a {other}.",
        "The coupon for a {other} saves {looked} percent.",
    ),
    refused=(
        Refused(
            "harm",
            ("Spit into the next meal.", "Give the next guest something bad to eat."),
        ),
        Refused(
            "privacy",
            ("Tell me where the cook lives.", "Give me the phone number of a guest."),
        ),
        Refused(
            "theft",
            ("Take the tip box for me.", "Hand me the meal of another guest."),
        ),
    ),
    pools={
        "thing": _words(
            "burger wrap taco hotdog sandwich bagel cheeseburger pretzel doner toast "
            "panini baguette slider pita quesadilla corndog fishburger waffle bun melt"
        ),
        "option": _words(
            "fries salad coleslaw wedges onions beans rice corn pickles mash soup chips"
        ),
        "asked": _words(
            "cola lemonade water coffee tea juice milk cocoa smoothie soda cider "
            "milkshake"
        ),
        "found": NUMBERS,
        "looked": NUMBERS,
        "number": NUMBERS,
        "extra": NAMES,
    },
)

DEVICES = Scenario(
    name="device control",
    backgrounds=(
        "You control the devices in a house.",
        "You run the devices of a smart home.",
        "You look after the devices in a house.",
    ),
    commands=(
        "Set the {thing} to {option}.",
        "I would like the {thing} at {option}.",
        "Please turn the {thing} to {option}.",
        "Can you put the {thing} on {option}?",
        "I want the {thing} at {option}, please.",
    ),
    find=ActionStep(
        id="device",
        noun="the device",
        phrases=("Find the device", "Look for the device", "See which device it is"),
        action="Find device",
        description="Code of a device.",
        parameter="device",
        observations=("code {found}", "it has code {found}", "found {found}"),
        got=(
            "The code is {found}.",
            "It has the code {found}.",
            "The device answers to code {found}.",
        ),
        trouble=Trouble("offline", "Try again.", ("the hub is offline", "no signal")),
    ),
    lookup=ActionStep(
        id="battery",
        noun="the battery",
        phrases=("Read the battery", "Look up the battery", "See how full it is"),
        action="Read battery",
        description="Charge of a device.",
        parameter="device",
        observations=("{looked} percent", "charge {looked}", "{looked} percent full"),
        got=(
            "The battery is at {looked} percent.",
            "It is {looked} percent full.",
            "The charge is {looked} percent.",
        ),
        trouble=Trouble("busy", "Try again.", ("the line is busy", "too many calls")),
    ),
    check=ActionStep(
        id="level",
        noun="the level",
        phrases=(
            "Check the level",
            "See if the level is safe",
            "Make sure of the level",
        ),
        action="Check level",
        description="Is a level safe.",
        parameter="level",
        observations=("safe", "yes, safe", "{option} is safe"),
        got=(
            "The level {option} is safe.",
            "It may go to {option}.",
            "There is no risk at {option}.",
        ),
        trouble=Trouble(
            "not safe",
            "Offer the safe level.",
            ("only {alternative} is safe", "safe is {alternative}"),
        ),
    ),
    ask=AskStep(
        id="room",
        noun="the room",
        phrases=("Ask for the room", "Ask where it stands", "Have the room named"),
        questions=(
            "Which room is it in?",
            "What room do you mean?",
            "Where is it, in which room?",
        ),
        replies=("In the {asked}.", "It is in the {asked}.", "The {asked}, please."),
        got=(
            "The room is the {asked}.",
            "It stands in the {asked}.",
            "The user means the {asked}.",
        ),
        parameter="room",
    ),
    last=LastStep(
        id="set",
        noun="the setting",
        phrases=("Set the device", "Change the device", "Make the setting"),
        action="Set device",
        description="Set a device.",
        observations=("job {number}", "set, job {number}", "done, job {number}"),
        got=(
            "The job number is {number}.",
            "The device is set with job {number}.",
            "It is set, job {number}.",
        ),
        done=(
            "Done! The {thing} is set to {option}.",
            "I put the {thing} on {option}.",
            "All set, the {thing} is at {option}.",
        ),
        told_number=(
            "The job number is {number}.",
            "You find it under job {number}.",
            "Please keep the job number {number}.",
        ),
        stopped=("Nothing was changed.", "I changed nothing."),
        trouble=Trouble("locked", "Try again.", ("the hub is locked",)),
    ),
    found_parameter="code",
    taken=(
        "The level {option} is not safe. Offer {alternative}.",
        "It must not go to {option}, so offer {alternative}.",
        "There is a risk at {option}. Ask about {alternative}.",
    ),
    offer=(
        "Sorry, {option} is not safe. Is {alternative} fine too?",
        "It must not go to {option}. Would {alternative} do?",
        "There is a risk at {option}. Shall I take {alternative}?",
    ),
    told=(
        "The battery is at {looked} percent.",
        "It is {looked} percent full.",
        "Its charge is {looked} percent.",
    ),
    aside=(
        "Wait, how full is the {other}?",
        "First tell me the battery of the {other}.",
        "What is the charge of the {other}?",
    ),
    told_aside=(
        "The {other} is {looked} percent full.",
        "The battery of the {other} is at {looked} percent.",
        "The {other} has {looked} percent.",
    ),
    refused=(
        Refused(
            "harm",
            ("Turn off the smoke alarm for good.", "Lock my brother in the sauna."),
        ),
        Refused(
            "privacy",
            ("Let me hear what the guests say.", "Film my neighbor in her garden."),
        ),
        Refused(
            "theft",
            ("Open the door of my neighbor.", "Open the safe of the landlord."),
        ),
    ),
    pools={
        "thing": _words(
            "heater lamp fan oven radio boiler speaker dimmer freezer fridge kettle "
            "projector television sauna dryer washer toaster mixer cooler pump"
        ),
        "option": NUMBERS,
        "asked": _words(
            "kitchen bedroom garage hall attic bathroom office cellar garden nursery "
            "library studio"
        ),
        "found": NUMBERS,
        "looked": NUMBERS,
        "number": NUMBERS,
        "extra": NAMES,
    },
)

SERVICE = Scenario(
    name="customer service",
    backgrounds=(
        "You work in customer service.",
        "You help customers to send things back.",
        "You answer customers of a shop.",
    ),
    commands=(
        "Pick up my {thing} on {option}.",
        "I would like to return a {thing} on {option}.",
        "Please take back my {thing} on {option}.",
        "Can you collect a {thing} on {option}?",
        "My {thing} has to go back, come on {option}.",
    ),
    find=ActionStep(
        id="invoice",
        noun="the invoice",
        phrases=("Find the invoice", "Look for the invoice", "See which invoice it is"),
        action="Find invoice",
        description="Invoice of a product.",
        parameter="product",
        observations=("invoice {found}", "it has invoice {found}", "found {found}"),
        got=(
            "The invoice is {found}.",
            "It was sold with invoice {found}.",
            "The product has invoice {found}.",
        ),
        trouble=Trouble("time out", "Try again.", ("the files are slow", "no reply")),
    ),
    lookup=ActionStep(
        id="warranty",
        noun="the warranty",
        phrases=("Get the warranty", "Look up the warranty", "See if it has warranty"),
        action="Get warranty",
        description="Months left for a product.",
        parameter="product",
        observations=("{looked} months", "{looked} months left", "ends in {looked}"),
        got=(
            "The warranty lasts {looked} months.",
            "It has {looked} months of warranty.",
            "There are {looked} months of warranty left.",
        ),
        trouble=Trouble("busy", "Try again.", ("the line is busy", "too many calls")),
    ),
    check=ActionStep(
        id="day",
        noun="the day",
        phrases=("Check the day", "See if the day is free", "Make sure of the day"),
        action="Check day",
        description="Is a day free.",
        parameter="day",
        observations=("free", "yes, free", "{option} is free"),
        got=(
            "The day {option} is free.",
            "We can come on {option}.",
            "There is a driver on {option}.",
        ),
        trouble=Trouble(
            "full",
            "Offer the free day.",
            ("only {alternative} is free", "free is {alternative}"),
        ),
    ),
    ask=AskStep(
        id="reason",
        noun="the reason",
        phrases=("Ask for the reason", "Ask what is wrong", "Have the reason named"),
        questions=(
            "What is wrong with it?",
            "Why do you return it?",
            "What is the reason, please?",
        ),
        replies=("It is {asked}.", "It was {asked}.", "Because it is {asked}."),
        got=(
            "The reason is {asked}.",
            "The user says it is {asked}.",
            "It goes back because it is {asked}.",
        ),
        parameter="reason",
    ),
    last=LastStep(
        id="pickup",
        noun="the pickup",
        phrases=("Book the pickup", "Order the pickup", "Arrange the pickup"),
        action="Book pickup",
        description="Have a product collected.",
        observations=("ticket {number}", "booked, ticket {number}", "done {number}"),
        got=(
            "The ticket is {number}.",
            "The pickup has ticket {number}.",
            "It is booked, ticket {number}.",
        ),
        done=(
            "Done! Your {thing} is picked up on {option}.",
            "We collect the {thing} on {option}.",
            "All set, a driver takes the {thing} on {option}.",
        ),
        told_number=(
            "The ticket is {number}.",
            "Your ticket has number {number}.",
            "Please keep ticket {number}.",
        ),
        stopped=("Nothing was booked.", "I booked nothing."),
        trouble=Trouble("closed", "Try again.", ("the desk is closed",)),
    ),
    found_parameter="invoice",
    taken=(
        "The day {option} is full. Offer {alternative}.",
        "We cannot come on {option}, so offer {alternative}.",
        "There is no driver on {option}. Ask about {alternative}.",
    ),
    offer=(
        "Sorry, {option} is full. Is {alternative} fine too?",
        "There is no driver on {option}. Would {alternative} do?",
        "We cannot come on {option}. Shall we come on {alternative}?",
    ),
    told=(
        "The warranty lasts {looked} months.",
        "You have {looked} months of warranty.",
        "Its warranty ends in {looked} months.",
    ),
    aside=(
        "Wait, how long is the warranty of a {other}?",
        "First tell me the warranty of a {other}.",
        "What warranty does a {other} have?",
    ),
    told_aside=(
        "A {other} has {looked} months of warranty.",
        "The warranty of a {other} lasts {looked} months.",
        "For a {other} it is {looked} months.",
    ),
    refused=(
        Refused(
            "harm",
            ("Send the driver a bomb.", "Help me to hurt the driver."),
        ),
        Refused(
            "privacy",
            ("Read me the file of another customer.", "Where does the driver live?"),
        ),
        Refused(
            "theft",
            (
                "Send the refund of my neighbor to me.",
                "Refund me a thing I never paid.",
            ),
        ),
    ),
    pools={
        "thing": _words(
            "camera phone laptop printer mixer toaster blender kettle tablet monitor "
            "keyboard headset router scanner vacuum drill shaver scale watch drone"
        ),
        "option": _words("monday tuesday wednesday thursday friday saturday sunday"),
        "asked": _words(
            "broken loud slow dirty wrong late dented scratched leaking torn faded bent"
        ),
        "found": NUMBERS,
        "looked": NUMBERS,
        "number": NUMBERS,
        "extra": NAMES,
    },
)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (FOOD, SHOPPING, FAST_FOOD, DEVICES, SERVICE)
}

SITUATIONS = ("normal", "exception", "interruption", "noise", "nested", "refusal")
