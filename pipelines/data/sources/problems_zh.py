"""Chinese word problems from our own seeded templates, simplified characters, each with its steps.

Enters: tasks, a seed, a range of indices. Leaves: problems whose answer was computed beside the text, and a verifier.

Written for this project (Apache-2.0), since a Chinese problem set with a clear licence is hard to find: no benchmark's
item is copied. A problem is a sentence frame filled with people, things, places and numbers; an answer is always a
whole number.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence

from pipelines.data.sources.problem import Problem

Draft = tuple[str, str, int, str]  # question, steps, answer, unit
_PEOPLE = [
    "小明",
    "小红",
    "小刚",
    "小丽",
    "小华",
    "小芳",
    "小军",
    "小兰",
    "阿强",
    "阿梅",
    "李雷",
    "韩梅梅",
    "王老师",
    "张叔叔",
    "陈阿姨",
    "爷爷",
    "奶奶",
    "妹妹",
    "哥哥",
    "表姐",
]
_THINGS = [
    "个苹果",
    "个橘子",
    "个梨",
    "个鸡蛋",
    "个馒头",
    "个面包",
    "支铅笔",
    "支毛笔",
    "本书",
    "本练习本",
    "张邮票",
    "张卡片",
    "颗糖",
    "颗珠子",
    "朵花",
    "块饼干",
    "块积木",
    "条毛巾",
    "只风筝",
    "把扇子",
]
_GOODS = ["苹果", "大米", "面粉", "白糖", "茶叶", "西瓜", "土豆", "白菜", "葡萄", "花生"]
_PLACES = ["学校", "图书馆", "公园", "超市", "火车站", "博物馆", "体育馆", "医院", "书店", "菜市场"]
_ANIMALS = (("鸡", 2), ("鸭", 2), ("兔子", 4), ("羊", 4), ("牛", 4), ("猫", 4), ("蜻蜓", 6), ("蜘蛛", 8))
_DAYS = ["星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"]


def _sum(r: random.Random) -> Draft:
    a, b = r.randint(2, 99), r.randint(2, 99)
    (p, q), thing = r.sample(_PEOPLE, 2), r.choice(_THINGS)
    return f"{p}有{a}{thing}，{q}有{b}{thing}，两人一共有多少{thing}？", f"{a} + {b} = {a + b}。", a + b, thing[0]


def _left(r: random.Random) -> Draft:
    a, thing = r.randint(20, 99), r.choice(_THINGS)
    b, c = r.randint(1, a // 2), r.randint(1, a // 2)
    p, q = r.sample(_PEOPLE, 2)
    steps = f"给了{q}以后剩下{a} - {b} = {a - b}，再用去{c}，剩下{a - b} - {c} = {a - b - c}。"
    return (
        f"{p}有{a}{thing}，给了{q}{b}{thing[0]}，后来又用去{c}{thing[0]}，还剩多少{thing}？",
        steps,
        a - b - c,
        thing[0],
    )


def _times(r: random.Random) -> Draft:
    a, b, thing, p = r.randint(2, 15), r.randint(2, 20), r.choice(_THINGS), r.choice(_PEOPLE)
    return f"{p}有{a}个盒子，每个盒子里有{b}{thing}，一共有多少{thing}？", f"{a} × {b} = {a * b}。", a * b, thing[0]


def _share(r: random.Random) -> Draft:
    people, share, thing = r.randint(2, 12), r.randint(2, 20), r.choice(_THINGS)
    total = people * share
    return (
        f"把{total}{thing}平均分给{people}个小朋友，每人分到多少{thing[0]}？",
        f"{total} ÷ {people} = {share}。",
        share,
        thing[0],
    )


def _price(r: random.Random) -> Draft:
    price, kilos, paid = r.randint(2, 15), r.randint(2, 9), 0
    cost = price * kilos
    paid = math.ceil(cost / 50) * 50
    p, goods = r.choice(_PEOPLE), r.choice(_GOODS)
    steps = f"一共要付{price} × {kilos} = {cost}元，应找回{paid} - {cost} = {paid - cost}元。"
    return f"{goods}每千克{price}元，{p}买了{kilos}千克，付了{paid}元，应找回多少元？", steps, paid - cost, "元"


def _road(r: random.Random) -> Draft:
    speed, hours, (a, b) = r.randint(3, 90), r.randint(2, 9), r.sample(_PLACES, 2)
    return (
        f"一辆车从{a}开往{b}，每小时行{speed}千米，{hours}小时到达，两地相距多少千米？",
        f"{speed} × {hours} = {speed * hours}。",
        speed * hours,
        "千米",
    )


def _meet(r: random.Random) -> Draft:
    a, b, hours, (p, q) = r.randint(3, 20), r.randint(3, 20), r.randint(2, 6), r.sample(_PEOPLE, 2)
    steps = f"两人每小时一共走{a} + {b} = {a + b}千米，{hours}小时走{a + b} × {hours} = {(a + b) * hours}千米。"
    return (
        f"{p}和{q}同时从两地相向而行，{p}每小时走{a}千米，{q}每小时走{b}千米，{hours}小时后相遇，两地相距多少千米？",
        steps,
        (a + b) * hours,
        "千米",
    )


def _legs(r: random.Random) -> Draft:
    (a, m), (b, n) = r.sample(_ANIMALS, 2)
    x, y = r.randint(1, 12), r.randint(1, 12)
    steps = (
        f"{a}有{m}条腿，{x} × {m} = {x * m}；{b}有{n}条腿，{y} × {n} = {y * n}。{x * m} + {y * n} = {x * m + y * n}。"
    )
    return f"院子里有{x}只{a}和{y}只{b}，一共有多少条腿？", steps, x * m + y * n, "条"


def _cage(r: random.Random) -> Draft:
    chickens, rabbits = r.randint(1, 20), r.randint(1, 20)
    heads, legs = chickens + rabbits, 2 * chickens + 4 * rabbits
    steps = (
        f"假设全是鸡，应有{heads} × 2 = {2 * heads}条腿，少了{legs} - {2 * heads} = "
        f"{legs - 2 * heads}条。每只兔子比鸡多2条腿，{legs - 2 * heads} ÷ 2 = {rabbits}。"
    )
    return f"鸡和兔关在一个笼子里，共有{heads}个头，{legs}条腿，兔子有多少只？", steps, rabbits, "只"


def _age(r: random.Random) -> Draft:
    young, gap, years, p = r.randint(3, 15), r.randint(20, 35), r.randint(1, 10), r.choice(_PEOPLE[:10])
    steps = (
        f"爸爸今年{young} + {gap} = {young + gap}岁，{years}年后是{young + gap} + {years} = {young + gap + years}岁。"
    )
    return f"{p}今年{young}岁，爸爸比他大{gap}岁，{years}年后爸爸多少岁？", steps, young + gap + years, "岁"


def _rectangle(r: random.Random) -> Draft:
    a, b = r.randint(2, 40), r.randint(2, 40)
    if r.random() < 0.5:
        return (
            f"一个长方形的长是{a + b}厘米，宽是{b}厘米，它的面积是多少平方厘米？",
            f"{a + b} × {b} = {(a + b) * b}。",
            (a + b) * b,
            "平方厘米",
        )
    return (
        f"一块长方形菜地长{a + b}米，宽{b}米，它的周长是多少米？",
        f"({a + b} + {b}) × 2 = {(a + 2 * b) * 2}。",
        (a + 2 * b) * 2,
        "米",
    )


def _work(r: random.Random) -> Draft:
    a, b, days = r.randint(3, 30), r.randint(3, 30), r.randint(2, 12)
    steps = f"两队每天一共修{a} + {b} = {a + b}米，{days}天修{a + b} × {days} = {(a + b) * days}米。"
    return f"甲队每天修路{a}米，乙队每天修路{b}米，两队合修{days}天，一共修路多少米？", steps, (a + b) * days, "米"


def _multiple(r: random.Random) -> Draft:
    a, k, (p, q), thing = r.randint(2, 30), r.randint(2, 8), r.sample(_PEOPLE, 2), r.choice(_THINGS)
    steps = f"{q}有{a} × {k} = {a * k}，两人一共有{a} + {a * k} = {a + a * k}。"
    return f"{p}有{a}{thing}，{q}的是{p}的{k}倍，两人一共有多少{thing}？", steps, a + a * k, thing[0]


def _average(r: random.Random) -> Draft:
    mean, p = r.randint(70, 95), r.choice(_PEOPLE[:10])
    d = r.randint(1, 5)
    a, b, c = mean - d, mean + 2 * d, mean - d
    steps = f"总分是{a} + {b} + {c} = {a + b + c}，{a + b + c} ÷ 3 = {mean}。"
    return f"{p}三次测验的成绩是{a}分、{b}分和{c}分，平均成绩是多少分？", steps, mean, "分"


def _pages(r: random.Random) -> Draft:
    a, days, rest, p = r.randint(5, 40), r.randint(2, 12), r.randint(1, 60), r.choice(_PEOPLE)
    steps = f"已经看了{a} × {days} = {a * days}页，全书有{a * days} + {rest} = {a * days + rest}页。"
    return (
        f"{p}看一本书，每天看{a}页，看了{days}天，还剩{rest}页没看，这本书一共有多少页？",
        steps,
        a * days + rest,
        "页",
    )


def _weekday(r: random.Random) -> Draft:
    today, days = r.randrange(7), r.randint(8, 100)
    answer = (today + days) % 7 + 1
    steps = f"{days} ÷ 7 = {days // 7} 余 {days % 7}，从{_DAYS[today]}往后数{days % 7}天是{_DAYS[answer - 1]}。"
    return f"今天是{_DAYS[today]}，{days}天以后是星期几？星期日请答7。", steps, answer, ""


def _greatest(r: random.Random) -> Draft:
    common, m, n = r.randint(2, 20), r.randint(1, 9), r.randint(1, 9)
    a, b = common * m, common * n
    divisor = math.gcd(a, b)
    return (
        f"{a}和{b}的最大公约数是多少？",
        f"{a} = {divisor} × {a // divisor}，{b} = {divisor} × {b // divisor}。",
        divisor,
        "",
    )


def _arithmetic(r: random.Random) -> Draft:
    a, b, c = r.randint(2, 30), r.randint(2, 12), r.randint(2, 50)
    if r.random() < 0.5:
        return (
            f"计算：{a} × {b} + {c}。",
            f"先算乘法，{a} × {b} = {a * b}；再算加法，{a * b} + {c} = {a * b + c}。",
            a * b + c,
            "",
        )
    return (
        f"计算：({a} + {c}) × {b}。",
        f"先算括号里的，{a} + {c} = {a + c}；再算乘法，{a + c} × {b} = {(a + c) * b}。",
        (a + c) * b,
        "",
    )


_TEMPLATES: dict[str, Callable[[random.Random], Draft]] = {
    "sum": _sum,
    "left": _left,
    "times": _times,
    "share": _share,
    "price": _price,
    "road": _road,
    "meet": _meet,
    "legs": _legs,
    "cage": _cage,
    "age": _age,
    "rectangle": _rectangle,
    "work": _work,
    "multiple": _multiple,
    "average": _average,
    "pages": _pages,
    "weekday": _weekday,
    "greatest": _greatest,
    "arithmetic": _arithmetic,
}
TASKS = tuple(_TEMPLATES)


def problems(tasks: Sequence[str], seed: int, start: int, stop: int) -> Iterator[Problem]:
    """Problems number `start` to `stop`; tasks take turns, all of them when `tasks` is empty."""
    names = list(tasks) or list(TASKS)
    for index in range(start, stop):
        name = names[index % len(names)]
        question, steps, answer, unit = _TEMPLATES[name](random.Random(seed * 1_000_003 + index))
        yield Problem(name, question, steps, f"{answer}{unit}", functools.partial(_is_right, f"{answer}{unit}"))


def _is_right(expected: str, answer: str) -> bool:
    return answer.strip() == expected
