r"""Answers and gold answers, one pair a line: `answer | gold`, ⏎ being a new line.

Written for this project after situations in public reports about math-verify, TRL and others.
Each answer of ANSWERS_* is judged in <answer></answer> and in \boxed{}; COMPLETIONS_* are whole.
"""

ANSWERS_RIGHT = r"""
42 dollars | 42
$42.00 | 42
\$1,000 | 1000
1,000 dollars | 1000
USD 42 | 42
42 USD | $42
£42 | 42
¥1,500 | 1500
42€ | 42
-\$5 | -5
$5 million | 5000000
5 thousand | 5000
2 dozen | 24
1'234'567 | 1234567
1 234 567 | 1234567
10\ 000 | 10000
10\,000\,000 | 10000000
10{,}000 | 10000
10,\!000 | 10000
11,\! 111,\! 111,\! 100 | 11111111100
1,234.56 | 1234.56
1.234.567 | 1234567
12,345 | 12345
12345 | 12,345
3\times10^5 | 300000
3 \times 10^{5} | 300000
3*10^5 | 300000
3 x 10^5 | 300000
3×10⁵ | 300000
3 \cdot 10^{-2} | 0.03
3E5 | 300000
10^5 | 100000
1/2 | 0.5
2/4 | 1/2
\frac{2}{3} | 2/3
−1/2 | -1/2
\frac{1}{-2} | -1/2
{1 \over 2} | 0.5
1 \frac{1}{2} | 3/2
1\frac{1}{2} | 1.5
-2 1/2 | -5/2
1½ | 3/2
11 5/6 | 71/6
1 1/4 | 5/4
5/4 | 1 1/4
2.5 | 2\frac{1}{2}
3 3/4 | 3.75
50% | 0.5
50% | 50
50 | 50%
0.5 | 50%
50 percent | 50%
50\% | 1/2
12.5\% | 12.5
28 pct | 28\%
100% | 1
\frac{1}{2}\% | 0.5\%
5 cm | 5\text{ cm}
5 centimeters | 5 cm
5 m | 5
100 \text{m} | 100
5 cm^2 | 5
5 cm² | 5 \text{ cm}^2
5 km/h | 5
60 miles per hour | 60
60 mph | 60 miles per hour
5 square meters | 5 m^2
36\pi \text{ cm}^2 | 36\pi
2\sqrt{3} cm | 2\sqrt{3}
5 \mathrm{kg} | 5
$\frac{1}{2}$ cup | 1/2
$5$ or $6$ | 5, 6
15\mbox{ cm}^2 | 15
125\textnormal{ miles} | 125
30 cm^3 | 30
3rd | 3
90^\circ | 90
90^{\circ} | 90
90 degrees | 90
90 | 90^\circ
90° | 90^\circ
25°C | 25
\angle ABC = 90^\circ | 90
\frac{\pi}{2} | \pi/2
π/2 | \frac{\pi}{2}
2√3 | 2\sqrt{3}
√2/2 | \frac{\sqrt{2}}{2}
x² | x^2
2·3 | 6
６ | 6
∞ | \infty
x ≤ 5 | (-\infty,5]
x≥2 | [2,\infty)
x > 5 | x > 5
5 < x | x > 5
x>=5 | x \geq 5
x \in [0,1) | [0,1)
[0,1) | x\in[0,1)
0 < x < 1 | (0,1)
[-2, 7] | -2 \le x \le 7
(-\infty, 1) \cup (2, \infty) | (-\infty,1)\cup(2,\infty)
(2,\infty)\cup(-\infty,1) | (-\infty,1)\cup(2,\infty)
x<1 or x>2 | (-\infty,1)\cup(2,\infty)
\{2,1\} | \{1,2\}
\{1\} | 1
1 and 2 | 1,2
1, 2 | \{1,2\}
1;2 | 1,2
2, 1 | 1, 2
(1, 2, 3) | (1,2,3)
(0.5, 1) | (\frac12, 1)
(1,2),(2,1) | (2,1),(1,2)
x=1, y=2 | (1,2)
y=2, x=1 | x=1, y=2
x=2 or x=3 | 2,3
x = \pm 2 | \pm 2
±2 | -2,2
1 \pm \sqrt{2} | 1+\sqrt{2}, 1-\sqrt{2}
-12;-11;-10 | \{-12, -11, -10\}
(x,y)=(1,2) | (1,2)
A | A
(A) | A
A) | A
A. | A
a | A
(b) | B
\textbf{(B)} | B
\mathrm{(B)} | B
**B** | B
Option B | B
Choice (C) | C
B: Paris | B
B) 12 | B
(B) 12 | \text{(B)}
The answer is B | B
The answer is (B) 12. | B
A | \text{(A)}
True | True
true | True
\text{True} | True
TRUE. | True
Yes. | Yes
yes | Yes
No | No
\text{Yes} | Yes
Monday | \text{Monday}
"Monday" | Monday
monday | Monday
red, blue | red, blue
\text{even} | even
no solution | \text{no solution}
∅ | \emptyset
\varnothing | \emptyset
12:30 | 12:30
12:30 PM | 12:30 p.m.
3:4 | 3:4
3 : 4 | 3:4
3 to 4 | 3:4
5 x 10 | 50
1_000_000 | 1000000
two | 2
50¢ | 50
CHF 1'000 | 1000
20^\circ | 20^\circ C
101_2 | 101_2
101_{2} | 101_2
101_{\text{two}} | 101_2
x=5 | x=5
x = 5 | 5
f(x)=2x+3 | 2x+3
y=2x+3 | y=2x+3
2x+3=y | y=2x+3
2x+4y-3=0 | y=-\frac{1}{2}x+\frac{3}{4}
6x+8y=0 | 3x+4y=0
x^2+y^2=4 | y^2+x^2=4
x^2/4 + y^2/3 = 1 | x^2/16 + y^2/12 = 1/4
x = 1/3 \approx 0.333 | 1/3
7+5=12 | 12
6*7 | 42
2^5 | 32
2**5 | 32
\sqrt{16} | 4
sqrt(16) | 4
4\sqrt2 | 4\sqrt{2}
19, 46, 82 | 19, 46, \text{ and } 82
x+2 | 2+x
(x+1)(x-1) | x^2-1
\sin^2 x+\cos^2 x | 1
\frac{x+2}{7} | \frac{x}{7}+\frac{2}{7}
\tan^2(y)+1 | \sec^2(y)
1+i | i+1
1 - \frac{1}{\mathrm{e}} | 1 - \frac{1}{e}
\begin{bmatrix}1&2\\3&4\end{bmatrix} | \begin{pmatrix}1&2\\3&4\end{pmatrix}
0.\overline{3} | \frac{1}{3}
007 | 7
7.0 | 7
-0 | 0
`42` | 42
*42* | 42
__42__ | 42
$\mathbf{42}$ | 42
\text{42} | 42
\displaystyle 42 | 42
{42} | 42
(42) | 42
\left(42\right) | 42
42\% | 42
Answer: 42 | 42
Final answer: **42** | 42
\fbox{42} | 42
\boxed{42} apples | 42
The answer is 42 because 6*7=42 | 42
42 | \boxed{42}
42 | $42$
42 | The answer is 42.
42 | \$42
42 | 42.0
42 | ['42', '42.0']
6 | 1+5=6⏎#### 6
"""

ANSWERS_WRONG = r"""
$42 | €42
18 cents | $18
$5 million | 5
5 thousand | 5
2 dozen | 2
1,23 | 123
1,2,3 | 123
32, 349 | 32349
(1,234) | 1234
10,00 | 1000
0,001 | 0.001
1,5 | 1.5
3e4 | 300000
3\times10^4 | 300000
10^5 | 10
10^5 | 5
2/3 | 0.6667
0.6667 | 2/3
33.3% | 1/3
-1/2 | 1/2
2\frac{1}{2} | 1
2 1/2 | 2
2 1/2 | 1/2
-2 1/2 | -3/2
4 10/3 | 10
4 10/3 | 4
5% | 50%
0.5% | 0.5
5% | 0.5
percent 50 | 50
5 cm | 5 m
5 cm^2 | 5 cm^3
6 cm | 5
30 cm^3 | 3
5x | 5
2xy | 2
5n | 5
5ab | 5
2 | 2h
2h | 2
5m | 5
2 | 2x
2t | 2
5 apples and 3 oranges | 5
5 apples and 3 oranges | 3
5 to 7 | 5
5-7 | 5
5-7 | 7
5 or 6 | 5
5 or 6 | 6
5, 6 | 6
at least 5 | 5
less than 5 | 5
not 5 | 5
5 is wrong | 5
5 and a half | 5
5 squared | 5
5 thirds | 5
45^\circ | 90^\circ
25°C | 25°F
√2 | 2
x² | x^3
-∞ | \infty
x < 5 | (-\infty,5]
x < 5 | x > 5
x > 5 | y > 5
[0,1] | [0,1)
(0,1) | [0,1]
0 < x \le 1 | (0,1)
(-\infty, 1]\cup(2, \infty) | (-\infty,1)\cup(2,\infty)
\{1,2,3\} | \{1,2\}
1 | 1,2
1,2 | 1
(2,1) | (1,2)
(1,2) | (1,2,3)
\{1,2\} | (1,2)
[1,2] | (1,2)
x=1, y=2 | x=2, y=1
2 | \pm 2
\pm 2 | 2
1 \pm \sqrt{2} | 1 \pm \sqrt{3}
A or B | A
A and B | B
A, B | A
(A) 12 (B) 13 | A
(A)(B) | A
AB | A
B | A
D | C
Not A | A
BANANA | B
A = 12 | A
12 | A
False | True
not True | True
True or False | True
Yes and no | Yes
Mondays | Monday
silent | listen
Monday or Tuesday | Monday
blue, red | red, blue
odd | even
ab | ba
0 | \emptyset
12:30 | 1:30
12:30 | 12.5
4:3 | 3:4
4 to 3 | 3:4
5 x 10 | 10
two | 3
20^\circ F | 20^\circ C
1_00_000 | 1000
CHF 5 | \$5
1:00 | 12:00
101_3 | 101_2
101_2 | 110_2
5 | 101_2
y=5 | x=5
x=6 | x=5
2x=10 | 10
x+1=6 | 6
y=2x-3 | y=2x+3
3x+4y+14=0 | 0
x^2+y^2=4 | x^2+y^2=2
7+5=12 | 7
2^5 | 5
4\sqrt(2) | 4
4\sqrt{2} | 4
\sqrt{2} | 1.41421356
1.41421356 | \sqrt{2}
3.14 | \pi
\pi | 3.14159265
\frac{1}{2004!} | \frac{1}{2006!}
\frac{1}{3 \cdot 2^{2006}} | \frac{2^{2005}+1}{3 \cdot 2^{2006}}
x+\frac{1}{2^{98}} | x+\frac{1}{2^{99}}
21, 36, and 82 | 19, 46, \text{ and } 82
D = (0, 1.5) | D = (0, 1)
1, 3, 5, \ldots, 2n-1 | 1, 2, \ldots, n
1:4:9:\ldots | 1:2:3:\ldots
F_n = \sum_{k=0}^{n-2} F_k F_{n-k-2} | F_n = \sum_{k=0}^{n-1} F_k F_{n-k-1}
f(x)=0 | \forall x>0, f(x)=0
x-2 | 2-x
x^2+1 | x^2-1
X | x
2X+1 | 2x+1
\ln 2 | \log_{10} 2
e | 2.718281828
3-2i | 3+2i
-i | i
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}2\\1\end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix}1&3\\2&4\end{pmatrix}
0.\overline{3} | 0.3
7 8 | 78
7 8 | 15
I don't know | 5
The answer is 3 or 4 | 4
43 | ['42', '42.0']
5 | 1+5=6⏎#### 6
"""

COMPLETIONS_RIGHT = r"""
so \boxed{3} and \boxed{5} | 3,5
so \boxed{3}. Wait, no: \boxed{5} | 5
so \boxed{5}. Thus \boxed{5} | 5
\boxed{840}.,but let me⏎⏎**Final Answer**⏎\boxed{840} | 840
\(\boxed{1}\) and \(\boxed{-2}\). | -2,1
The sides are $\boxed{3}$, $\boxed{4}$ and $\boxed{5}$. | 3,4,5
$\boxed{\frac{1}{2}}$ of it, see eq. 7 | 1/2
\boxed {\frac{3}{4}} | 0.75
\boxed{\text{Yes}} | Yes
\boxed{\boxed{5}} | 5
thus \fbox{B} | B
It is 30 cm^3 | 30
It weighs 5 kg. | 5
It is 10-3 | 7
The result is 3/4 | 3/4
The result is 3/4 | 0.75
So we get 2 2/3. | 8/3
the area is 2^5 | 32
It is 1,234,567. | 1234567
The point is (1, 2). | (1,2)
The roots are 2 and 3. | 2,3
The answer is A. | A
The answer is option C. | C
The correct option is (D) | D
I choose B. | B
Answer: B | B
**B** | B
The answer is (B) because A is wrong. | B
The answer is 50%. | 50
There are 5 million people | 5000000
I think the answer is 42. | 42
The answer is 12, not 13. | 12
The answer is A, not B. | A
it is 5 x 10 | 50
The ratio is 3 to 4. | 3:4
The final answer is: $\frac{1}{2}$ | 0.5
Therefore $x = \frac{2}{3}$. | 2/3
x = 4 | 4
True | True
The answer is True. | True
The answer is Monday. | Monday
The time is 12:30. | 12:30
the value is −7. | -7
the value is ½ | 1/2
the angle is 90° | 90
#### 42 | 42
5+3=8⏎#### 8 | 8
7+7=14;14+1=15 | 15
Final Answer: **73** | 73
**Answer:** 73 | 73
**Answer: 73** | 73
she has 5 apples left. | 5
so she earns $18 per day | 18
Answer: She has 2 cats, so with 3 more it is 5 cats. | 5
it is 5.⏎Hope this helps! | 5
"""

COMPLETIONS_WRONG = r"""
so \boxed{3} and \boxed{5} | 5
so \boxed{3} and \boxed{5} | 3
so \boxed{3}. Wait, no: \boxed{5} | 3
It is 10-3 | -3
It is 10-3 | 3
pages 5-7 | 7
The result is 3/4 | 4
So we get 2 2/3. | 3
It is 1,234,567. | 567
The total is $1,234.56. | 56
about 1.5e3 in all | 3
The point is (1, 2). | 2
The roots are 2 and 3. | 3
The answer is A or B. | B
The answer is not B. | B
A is wrong, B is right. | A
It could be A or C. | C
There are 5 million people | 5
Therefore $x = \frac{2}{3}$. | 3
so $x = \sqrt{2}$ | 2
Thus it is \frac{3}{4} | 4
we get 2x | 2
we get x - 3 | -3
3x = 12 | 12
The statement is not True. | True
The time is 12:30. | 30
The ratio is 3:4 | 4
the value is -7. | 7
the value is ½ | 2
It is less than 5 | 5
It is not 5 | 5
x = 1, y = 2 | 2
23 or 24 | 24
The answer is 3, not 4. | 4
The answer is A, not B. | B
The answer is definitely not 5. | 5
I get 5, but that is wrong. | 5
it is 5 x 10 | 10
The ratio is 3 to 4. | 4
The ratio is 3 to 4. | 3
"""


def pairs(table: str) -> list[tuple[str, str]]:
    """The pairs of a table above."""
    rows = [line.replace("⏎", "\n").rsplit(" | ", 1) for line in table.strip().splitlines()]
    return [(text, gold) for text, gold in rows]
