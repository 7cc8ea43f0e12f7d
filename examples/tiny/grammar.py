"""A small grammar of telephone English: prompts, menus, numbers, dates, letters.

`RULES` maps a name to its alternatives; `{name}` inside an alternative is expanded again. Everything is lower
case without punctuation, numbers in words. The wording comes from general knowledge of telephone systems.
"""

from __future__ import annotations

import random
import re

_GRAMMAR = """
digit: zero | one | two | three | four | five | six | seven | eight | nine
teen: ten | eleven | twelve | thirteen | fourteen | fifteen | sixteen | seventeen | eighteen | nineteen
ten: twenty | thirty | forty | fifty | sixty | seventy | eighty | ninety
simple_ordinal: first | second | third | fourth | fifth | sixth | seventh | eighth | ninth | tenth |
    eleventh | twelfth | thirteenth | fourteenth | fifteenth | sixteenth | seventeenth | eighteenth |
    nineteenth | twentieth
month: january | february | march | april | may | june | july | august | september | october | november |
    december
weekday: sunday | monday | tuesday | wednesday | thursday | friday | saturday
letter: a | b | c | d | e | f | g | h | i | j | k | l | m | n | o | p | q | r | s | t | u | v | w | x | y |
    z
phonetic: alpha | bravo | charlie | delta | echo | foxtrot | golf | hotel | india | juliet | kilo | lima |
    mike | november | oscar | papa | quebec | romeo | sierra | tango | uniform | victor | whiskey | yankee |
    zulu | niner
name: anna | peter | maria | david | susan | james | linda | robert | karen | thomas | nancy | brian | laura
    | kevin | helen | george | emily | frank | alice | martin | julia | henry | sarah | daniel | grace |
    walter | smith | johnson | miller | davis | brown | wilson | taylor
person: agent | caller | user | operator | administrator | participant | member | leader | guest |
    representative | recipient | sender | host | manager | customer | party | person | attendant
people: agents | callers | users | operators | administrators | participants | members | guests |
    representatives | recipients | customers | people | monkeys | weasels | telemarketers
thing: message | recording | greeting | password | mailbox | extension | folder | call | conference | number
    | name | menu | directory | line | channel | queue | pin | account | file | list | entry | announcement
    | voicemail | phone number | area code | access code | phone system | temporary greeting | busy message
    | unavailable message | conference number | agent number | mailbox number | channel number | pin number
    | parking space | wake up call | last call
things: messages | recordings | greetings | passwords | calls | conferences | numbers | names | folders |
    lines | extensions | entries | digits | letters | options | keys | minutes
key: pound key | hash key | star key | pound sign | pound or hash key | {digit} key
press: press {digit} | press {digit} | press {digit} | press pound | press star | dial {digit}
do_msg: play | delete | save | forward | repeat | hear | listen to | review | skip | undelete | rerecord |
    send | erase | mark | reply to | accept | prepend | cancel | keep
which: this | the | your | the next | the previous | the current | the first | the last | another
action: {do_msg} {which} message | {do_msg} {which} recording | record your {thing} | enter your {thing} |
    change your {thing} | leave a message | reach an operator | call the sender | return to the main menu |
    hear these options again | exit | hang up | use the directory | enter a different number | add another
    recipient | accept this call | reject this call | mute or unmute yourself | lock or unlock the
    conference | leave the conference | increase the {which_volume} volume | decrease the {which_volume}
    volume | place an outgoing call | change folders | hear the envelope | call this number | try again |
    send a reply | extend the conference | eject the last user | hear the time | disable call forwarding |
    speak with a {person} | park the call | transfer the call | stay on the line | be called back
which_volume: conference | listening | talking | speaking | audio
menu_item: {press} to {action} | to {action} {press} | press {digit} for {thing_of} | to {action} | for
    {thing_of} press {digit} | or {digit} to {action} | or press {digit} to {action} | press {digit} to
    {action} or {digit} to {action}
thing_of: {things} | advanced options | {person} options | sales | support | billing | accounting | the
    operator | mailbox options | more options | the company directory | customer service | old messages |
    new messages | work messages | family messages | urgent messages | help
end: - | - | - | again | now | please | followed by the {key} | followed by pound | then press the {key} |
    and try again | after the tone | or press the {key}
request: please {action} {end} | please enter {which} {thing} {end} | enter the {thing} {end} | please say
    your name {end} | please record your {thing} {end} | please hold while i {try} | please hold while we
    {try} | please wait while i {try} | please hang up and {try_again} | please check {which} {thing} {end}
    | after the tone say your {thing} | at the tone please {action} | please leave your {thing} after the
    tone | when you are finished press the {key} | please choose a {thing} {end} | enter the {ordinal}
    {digit} letters of {which} name | please enter {digit} digits {end}
try: try to connect you | connect your call | try that extension | locate the {person} | transfer your call
    | look up the {thing} | try to reach your party | check the {thing} | find the {person} you are calling
    | attempt to place the call
try_again: try again | try your call again | try again later | dial again | call back later
bad: invalid | not valid | incorrect | not available | unavailable | busy | full | empty | locked | wrong |
    not in service | too short | too long | disabled | no longer available | not recognized
state: {bad} | enabled | now active | currently active | now muted | now unmuted | now locked | now unlocked
    | on the phone | being recorded | complete | saved | ready | activated | set | currently on hold |
    logged on | logged off | logged in | paused | forwarded | in the queue
done: saved | deleted | undeleted | sent | forwarded | changed | recorded | removed | accepted | added |
    cancelled | extended | completed | transferred | marked urgent | received | activated
statement: {which} {thing} is {state} | {which} {thing} has been {done} | {thing} {done} | the {person} is
    {state} | the {person} has left the {thing} | the {person} has joined | your {things} have been {done} |
    you have {number} {age} {things} | that {thing} is {state} | there are {number} {people} in the {thing}
    | there are no {things} in this {thing} | i'm sorry that {thing} is {bad} | sorry {which} {thing} is
    {bad} please {try_again} | that is not a valid {thing} please {try_again} | we are sorry {which} {thing}
    is {bad} | the {thing} you entered is {bad} | the {thing} you have dialed is {bad} | all {things} are
    {state} | all of our {people} are currently busy | nobody is available to take your call | no {things}
    match your search | {age} {thing} from {which} {person} | the {things} you entered did not match | your
    call is important to us | you are caller number {number} | your call is {ordinal} in line | the
    estimated hold time is {number} minutes | thank you for calling {which} {thing} | there is currently
    {digit} other {person} in the {thing} | you cannot {action} at this time | the {person} you are calling
    is {state} | the {people} have eaten the {thing} | does not accept {age} {things} | you may {action} at
    any time | welcome to the {thing} | goodbye | thank you | thank you goodbye | one moment please |
    {which} {thing} | {age} {things} | {people} waiting to {action} | if you would like to {action} {press}
    | if you know the {thing} {press} | if this is correct {press} | is in the {thing} | the {thing} will
    begin when the {person} arrives | to {which} {thing} | for {which} {thing} | the {thing} of {people} is
    {state} | the {thing} is not {state} | {bad} {thing} | call forwarding is {state} | call waiting {state}
    | do not disturb is {state} | the {person} is on another call | you will now be {joined} | your {thing}
    is set to
joined: joined to the conference | returned to the menu | placed in the queue | connected | transferred |
    the only person in the conference | removed from the conference | put on hold
age: new | old | saved | urgent | incoming | outgoing | unread | missed | private | unidentified
place: in {which} {thing} | at extension {digits} | on line {digit} | for {name} | from {name} | on
    {weekday} | at {clock} | by the {person} | for {number} minutes | to folder {digit}
spoken: {statement} {place} | {request} | {request} | {statement} | {statement} | {menu_item} | {menu_item}
    | {menu_item} {menu_item} | {name} {is_or_has} | {quantity} | {date} | {number_said} | {spelled} |
    {time_said}
is_or_has: is {state} | has joined the {thing} | has left the {thing} | is on the phone | is not at
    extension {digits} | is now in the {thing} | has {number} {age} {things}
number_said: {digits} | {digits} | {number} | {number} {number} | extension {digits} | number {digits} | the
    number is {digits} | call {digits} | minus {number} | line {digit} | folder {digit} | press {digit} |
    the {ordinal} {thing} | {ordinal} | {number} dollars | {number} point {digit} | {number} percent | star
    {digits} | your {thing} is {digits} | the number {digits} is {bad} | parked at {digits}
quantity: {number} {things} | {number} {people} | {number} minutes | {number} hours | {number} seconds |
    less than {number} {things} | more than {number} {people} | you have {number} {things} | message number
    {number} | caller {digit} of {number} | {number} minutes remaining
date: {weekday} {month} {ordinal} | {weekday} | {month} {ordinal} | {month} {ordinal} {year} | today at
    {clock} | yesterday at {clock} | tomorrow at {clock} | {weekday} at {clock} | received {weekday} {month}
    {ordinal} | on {weekday} the {ordinal} of {month} | {month} {year}
time_said: the time is {clock} | at the tone the time will be {clock} | {clock} | it is {clock} {zone} |
    {clock} on {weekday} | your call is set for {clock} | at {clock} exactly
zone: eastern | central | mountain | pacific | eastern time | greenwich time
spelled: {letters} | {letters} | {phonetic} | {phonetic} {phonetic} | the letter {letter} | {letter} as in
    {phonetic} | {letters} {digits} | use the {digit} key for {letter} | {symbol} | {symbol} {digits} |
    {letters} {symbol} {letters} | uppercase {letter} | lowercase {letter} | press {digit} for {letter}
symbol: dash | dot | slash | plus | equals | star | pound | comma | colon | underscore | at sign | number
    sign | ampersand | asterisk | percent | left brace | left bracket | open bracket | close brace |
    question mark | single quote | space | dollar | less than
"""


def _rules(grammar: str) -> dict[str, tuple[str, ...]]:
    """Parses `name: alternative | alternative`; indented lines continue a rule and - stands for nothing."""
    rules = (rule.partition(": ") for rule in grammar.strip().replace("\n    ", " ").split("\n"))
    return {
        name: tuple(text.strip(" -") for text in alternatives.split("|")) for name, _, alternatives in rules
    }


RULES = _rules(_GRAMMAR)
DIGITS, TEENS, TENS, ORDINALS = (RULES[name] for name in ("digit", "teen", "ten", "simple_ordinal"))
_NAME = re.compile(r"\{(\w+)\}")


def number_words(value: int) -> str:
    """`value` (0 to 999,999) in words without "and": 142 -> "one hundred forty two"."""
    if value < 10:
        return DIGITS[value]
    if value < 20:
        return TEENS[value - 10]
    if value < 100:
        return TENS[value // 10 - 2] + (f" {DIGITS[value % 10]}" if value % 10 else "")
    base, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    rest = f" {number_words(value % base)}" if value % base else ""
    return f"{number_words(value // base)} {name}{rest}"


def _computed(name: str, rng: random.Random) -> str:
    """The expansion of a name that is computed instead of listed in `RULES`."""
    if name == "digits":
        return " ".join(rng.choice((*DIGITS, "oh")) for _ in range(rng.randint(2, 7)))
    if name == "number":
        return number_words(int(10 ** rng.uniform(0, rng.choice((1.0, 2.0, 2.0, 3.0, 4.5)))))
    if name == "ordinal":
        tens = f"{rng.choice(TENS[:2])} {rng.choice(ORDINALS[:9])}"
        return tens if rng.random() < 0.25 else rng.choice(ORDINALS)
    if name == "year":
        last_century = f"nineteen {number_words(rng.randint(10, 99))}"
        two_thousands = f"two thousand {rng.choice(DIGITS[1:])}"
        return rng.choice((last_century, two_thousands, f"twenty {number_words(rng.randint(10, 40))}"))
    if name == "clock":
        exact = ("", "o'clock", f"oh {rng.choice(DIGITS[1:])}", number_words(rng.randint(10, 59)))
        minute, half = rng.choice(exact), rng.choice(("", "a m", "p m"))
        return f"{number_words(rng.randint(1, 12))} {minute} {half}"
    if name == "letters":
        return " ".join(rng.choice(RULES["letter"]) for _ in range(rng.randint(2, 6)))
    raise KeyError(f"grammar: no rule is called {name!r}")


def expand(name: str, rng: random.Random) -> str:
    """A random sentence of the rule `name` ("spoken" is the root).

    >>> expand("weekday", random.Random(0))
    'saturday'
    """
    if name not in RULES:
        return _computed(name, rng)
    text = _NAME.sub(lambda found: expand(found[1], rng), rng.choice(RULES[name]))
    return " ".join(text.split())
