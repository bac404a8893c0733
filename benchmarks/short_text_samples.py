"""Texts whose answer is known to the quality rules: good ones, and bad ones with the rule that they break. None is longer than a page.

`benchmarks/short_texts.py` prints which are judged otherwise; `tests/unit/test_quality.py` asks for these answers.
"""

# (language, text): short, and as good as text gets
GOOD = (
    ("zh", "床前明月光，疑是地上霜。举头望明月，低头思故乡。"),
    ("zh", "床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。"),
    ("zh", "床前明月光\n疑是地上霜\n举头望明月\n低头思故乡"),
    ("zh", "靜夜思\n李白\n床前明月光\n疑是地上霜\n舉頭望明月\n低頭思故鄉"),
    ("zh", "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。"),
    ("zh", "朝辞白帝彩云间\n千里江陵一日还\n两岸猿声啼不住\n轻舟已过万重山"),
    ("zh", "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。——李白"),
    ("zh", "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。（唐·李白《早发白帝城》）"),
    ("zh", "白日依山尽，黄河入海流！欲穷千里目，更上一层楼！——王之涣"),
    ("zh", "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。"),
    ("zh", "中华人民共和国的一切权力属于人民。人民行使国家权力的机关是全国人民代表大会和地方各级人民代表大会。"),
    ("zh", "造纸术在公元二世纪传遍全国，此后经中亚传入西方，成为文化传播最重要的工具之一，影响极为深远[3]"),
    ("zh", "造纸术在公元二世纪传遍全国，此后经中亚传入西方，成为文化传播最重要的工具之一。[3]\n印刷术则晚得多。[^1]"),
    ("zh", "造纸术在公元二世纪传遍全国，此后经中亚传入西方，成为文化传播最重要的工具之一！（1）"),
    ("zh", "造纸术在公元二世纪传遍全国，此后经中亚传入西方，成为文化传播最重要的工具之一①"),
    ("zh", "造纸术在公元二世纪传遍全国，此后经中亚传入西方，成为文化传播最重要的工具之一［12］"),
    (
        "zh",
        "目的：观察该方案的疗效与安全性。方法：将120例患者随机分为两组，每组60例。结果：治疗组总有效率为93.3%（56/60），对照组为78.3%（47/60），"
        "差异有统计学意义（χ²=5.55，P=0.018）；收缩压由（158.2±9.6）mmHg降至（131.4±8.8）mmHg（t=15.9，P<0.001）。结论：该方案有效。",
    ),
    (
        "zh",
        "第二百三十二条　故意杀人的，处死刑、无期徒刑或者十年以上有期徒刑；情节较轻的，处三年以上十年以下有期徒刑。\n"
        "第二百三十三条　过失致人死亡的，处三年以上七年以下有期徒刑；情节较轻的，处三年以下有期徒刑。本法另有规定的，依照规定。\n"
        "第二百三十四条　故意伤害他人身体的，处三年以下有期徒刑、拘役或者管制。犯前款罪，致人重伤的，处三年以上十年以下有期徒刑；"
        "致人死亡或者以特别残忍手段致人重伤造成严重残疾的，处十年以上有期徒刑、无期徒刑或者死刑。本法另有规定的，依照规定。\n"
        "第二百三十五条　过失伤害他人致人重伤的，处三年以下有期徒刑或者拘役。本法另有规定的，依照规定。",
    ),
    ("ja", "パソコンでプログラムをつくるときは、まずエディターをひらいて、ソースコードをかきます。"),
    ("ja", "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"),
    (
        "en",
        "The tyger burns in the forest of the night, and no hand that I know of would dare to seize the fire of his eyes, though many a poet "
        "has tried to tell what hammer and what chain were used to make his brain, and in what furnace it was, and who smiled [3]",
    ),
    (
        "en",
        "Fifty-six patients (57 +/- 6 y; 16 with hypertension, 10 with hypercholesterolemia, 8 smokers) were studied. Mean flow rose from 0.82 to "
        "1.31 mL/min/g (P<0.001), a change of 59.8% (95% CI 41.2-78.4), and resistance fell from 112.4 to 83.7 (P=0.004). In 22 controls (39.3%) it was "
        "0.79 (0.61-0.97) before and 0.88 (0.70-1.06) after the test (P=0.21); the difference of the groups was 0.43 (0.22-0.64).",
    ),
    (
        "hi",
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर "
        "उन्हें भाईचारे के भाव से बर्ताव करना चाहिए। सभी को इस घोषणा में सन्निहित सभी अधिकारों और आज़ादियों को प्राप्त करने का हक़ है और इस मामले में जाति, "
        "वर्ण, लिंग, भाषा, धर्म, राजनीति या अन्य विचार-प्रणाली, किसी देश या समाज विशेष में जन्म, सम्पत्ति या किसी प्रकार की अन्य मर्यादा आदि के कारण भेदभाव का विचार न किया जाएगा।",
    ),
    (
        "th",
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    ),
    # comma verse
    (
        "zh",
        "轻轻的我走了，\n正如我轻轻的来，\n我轻轻的招手，\n作别西天的云彩，",
    ),
    # preamble
    (
        "zh",
        "鉴于对人类家庭所有成员的固有尊严及其平等的和不移的权利的承认，乃是世界自由、正义与和平的基础，\n"
        "鉴于对人权的无视和侮蔑已发展为野蛮暴行，这些暴行玷污了人类的良心，\n"
        "鉴于为使人类不致迫不得已铤而走险对暴政和压迫进行反叛，有必要使人权受法治的保护，",
    ),
    # ci poem with refrain
    (
        "zh",
        "少年不识愁滋味，\n爱上层楼。\n爱上层楼。\n为赋新词强说愁。\n而今识尽愁滋味，\n欲说还休。\n欲说还休。\n却道天凉好个秋。",
    ),
    # ci one par
    (
        "zh",
        "少年不识愁滋味，爱上层楼。爱上层楼。为赋新词强说愁。而今识尽愁滋味，欲说还休。欲说还休。却道天凉好个秋。",
    ),
    # shijing refrain
    (
        "zh",
        "采采芣苢，薄言采之。采采芣苢，薄言有之。\n采采芣苢，薄言掇之。采采芣苢，薄言捋之。\n采采芣苢，薄言袺之。采采芣苢，薄言襭之。",
    ),
    # shijing guanju
    (
        "zh",
        "关关雎鸠，在河之洲。窈窕淑女，君子好逑。\n参差荇菜，左右流之。窈窕淑女，寤寐求之。\n求之不得，寤寐思服。悠哉悠哉，辗转反侧。\n参差荇菜，左右采之。窈窕淑女，琴瑟友之。\n参差荇菜，左右芼之。窈窕淑女，钟鼓乐之。",
    ),
    # shijing jianjia
    (
        "zh",
        "蒹葭苍苍，白露为霜。所谓伊人，在水一方。\n"
        "溯洄从之，道阻且长。溯游从之，宛在水中央。\n"
        "蒹葭萋萋，白露未晞。所谓伊人，在水之湄。\n"
        "溯洄从之，道阻且跻。溯游从之，宛在水中坻。\n"
        "蒹葭采采，白露未已。所谓伊人，在水之涘。\n"
        "溯洄从之，道阻且右。溯游从之，宛在水中沚。",
    ),
    # song xiaohe
    (
        "zh",
        "我的祖国\n"
        "一条大河波浪宽，风吹稻花香两岸。\n"
        "我家就在岸上住，听惯了艄公的号子，看惯了船上的白帆。\n"
        "这是美丽的祖国，是我生长的地方，\n"
        "在这片辽阔的土地上，到处都有明媚的风光。\n"
        "姑娘好像花儿一样，小伙儿心胸多宽广。\n"
        "为了开辟新天地，唤醒了沉睡的高山，让那河流改变了模样。\n"
        "这是英雄的祖国，是我生长的地方，\n"
        "在这片古老的土地上，到处都有青春的力量。",
    ),
    # tech 1
    (
        "zh",
        "在 PyTorch 中使用 DataLoader 时，num_workers 大于 0 会启动子进程；若 Dataset 打开了 HDF5 文件，请在 worker_init_fn 中重新打开。",
    ),
    # tech 2
    (
        "zh",
        "在 PyTorch 中使用 torch.utils.data.DataLoader 时，设置 pin_memory=True 与 non_blocking=True 可以让 cudaMemcpyAsync 与 kernel 重叠执行。",
    ),
    # tech 3
    (
        "zh",
        "使用 Docker Compose 部署 PostgreSQL、Redis 和 Nginx：先编写 docker-compose.yml，再执行 docker compose up -d，最后用 docker compose logs -f 查看日志。",
    ),
    # tech 4
    (
        "zh",
        "Kubernetes 的 Deployment 通过 ReplicaSet 管理 Pod。执行 kubectl rollout undo deployment/nginx-deployment --to-revision=2 可以回滚。",
    ),
    # tech 5
    (
        "zh",
        "Transformer 模型由 Encoder 和 Decoder 组成，GPT（Generative Pre-trained Transformer）只用 Decoder，BERT（Bidirectional Encoder Representations from Transformers）只用 Encoder。",
    ),
    # tech 6
    (
        "zh",
        "首先 import numpy as np，然后调用 np.linalg.svd(matrix, full_matrices=False) 得到 U、S、Vh，再用 np.diag(S) 还原矩阵。",
    ),
    # formula zh
    (
        "zh",
        "设函数 f(x)=x^3-3x+2，则 f'(x)=3x^2-3=3(x-1)(x+1)，所以 f(x) 在 (-∞,-1) 和 (1,+∞) 上递增，在 (-1,1) 上递减，极大值 f(-1)=4，极小值 f(1)=0。",
    ),
    # refs zh
    (
        "zh",
        "人工神经网络的研究始于二十世纪四十年代[1]，\n感知机由罗森布拉特在一九五八年提出[2]，\n反向传播算法使多层网络的训练成为可能[3]",
    ),
    # recipe zh
    (
        "zh",
        "西红柿炒鸡蛋\n用料\n鸡蛋 3个\n西红柿 2个\n盐 适量\n做法\n1. 鸡蛋打散，加少许盐搅匀。\n2. 西红柿切块备用。\n3. 热锅放油，倒入蛋液炒至凝固盛出。\n4. 下西红柿炒出汁，倒入鸡蛋翻炒均匀即可。",
    ),
    # dialogue zh
    (
        "zh",
        "“你叫什么名字？”\n“我叫李明。”\n“你从哪里来？”\n“我从北京来，在这里住了三年。”",
    ),
    # idiom def
    (
        "zh",
        "【画蛇添足】画蛇时给蛇添上脚。比喻做了多余的事，反而有害无益，徒劳无功。",
    ),
    # couplet
    (
        "zh",
        "海内存知己，天涯若比邻。海上生明月，天涯共此时。",
    ),
    # classical w/ spaces
    (
        "zh",
        "子曰：「學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？人不知而不慍，不亦君子乎？」",
    ),
    # table zh
    (
        "zh",
        "年份 人口（万人） 增长率\n"
        "2018年，全市常住人口为2154.2万人，比上年减少16.5万人。\n"
        "2019年，全市常住人口为2153.6万人，比上年减少0.6万人。\n"
        "2020年，全市常住人口为2189.0万人，比上年增加35.4万人。",
    ),
    # statutes dup
    (
        "zh",
        "第一条\u3000甲方应当在收到货物之日起七日内向乙方支付货款。\n"
        "第二条\u3000乙方应当在收到货款之日起七日内向甲方开具发票。\n"
        "第三条\u3000甲方逾期支付货款的，应当按照每日万分之五的标准向乙方支付违约金。\n"
        "第四条\u3000乙方逾期交付货物的，应当按照每日万分之五的标准向甲方支付违约金。",
    ),
    # faq zh
    (
        "zh",
        "问：如何注册？\n答：打开首页，点击右上角的“注册”，填写手机号即可。\n问：忘记密码怎么办？\n答：在登录页点击“忘记密码”，按提示用手机号重设。\n问：如何注销？\n答：在设置里选择“账号与安全”，再点“注销账号”。",
    ),
    # chess zh
    (
        "zh",
        "炮二平五，马８进７，马二进三，车９平８，车一平二，马２进３。红方由此形成中炮对屏风马的局面。",
    ),
    # short news 22
    (
        "zh",
        "昨日，我市召开春季造林绿化动员大会。市长到会讲话。",
    ),
    # limerick yue
    (
        "zh",
        "月光光，照地堂，年卅晚，摘槟榔，槟榔香，摘子姜。",
    ),
    # 5-char no punct 4 lines 2 poems
    (
        "zh",
        "春眠不觉晓\n处处闻啼鸟\n夜来风雨声\n花落知多少\n\n空山不见人\n但闻人语响\n返景入深林\n复照青苔上",
    ),
    # couplets in pairs
    (
        "zh",
        "床前明月光 疑是地上霜\n举头望明月 低头思故乡",
    ),
    # 7char w/ space
    (
        "zh",
        "朝辞白帝彩云间\u3000千里江陵一日还\n两岸猿声啼不住\u3000轻舟已过万重山",
    ),
    # 6-char
    (
        "zh",
        "千山鸟飞绝\n万径人踪灭\n孤舟蓑笠翁\n独钓寒江雪\n——柳宗元《江雪》",
    ),
    # verse w/ title author brackets
    (
        "zh",
        "《江雪》\n唐·柳宗元\n千山鸟飞绝\n万径人踪灭\n孤舟蓑笠翁\n独钓寒江雪",
    ),
    # ja dialogue
    (
        "ja",
        "「おはようございます」\n「おはよう。今日はいい天気だね」\n「ええ、散歩に行きませんか」",
    ),
    # ja tech
    (
        "ja",
        "Python で pandas の DataFrame を CSV に書き出すには df.to_csv('out.csv', index=False) を使います。",
    ),
    # ko article
    (
        "ko",
        "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았으며 서로 형제애의 정신으로 행동하여야 한다. 모든 사람은 인종, 피부색, 성, 언어, 종교, 정치적 또는 기타의 견해, 민족적 또는 사회적 출신, 재산, 출생 또는 기타의 신분과 같은 어떠한 종류의 차별이 없이, 이 선언에 규정된 모든 권리와 자유를 향유할 자격이 있다. 더 나아가 개인이 속한 국가의 지위에 근거하여 차별이 있어서는 아니된다.",
    ),
    # ar
    (
        "ar",
        "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق، وقد وهبوا عقلاً وضميراً وعليهم أن يعامل بعضهم بعضاً بروح الإخاء. لكل إنسان حق التمتع بكافة الحقوق والحريات الواردة في هذا الإعلان، دون أي تمييز، كالتمييز بسبب العنصر أو اللون أو الجنس أو اللغة أو الدين أو الرأي السياسي أو أي رأي آخر، أو الأصل الوطني أو الاجتماعي أو الثروة أو الميلاد أو أي وضع آخر، دون أية تفرقة بين الرجال والنساء؟",
    ),
    # he
    (
        "he",
        "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה עליהם לנהוג איש ברעהו ברוח של אחווה. כל אדם זכאי לזכויות ולחירויות שנקבעו בהכרזה זו ללא הפליה כלשהי מטעמי גזע, צבע, מין, לשון, דת, דעה פוליטית או דעה בבעיות אחרות, בגלל מוצא לאומי או חברתי, קניין, לידה או מעמד אחר. גדולה מזו, לא יופלה אדם על פי מעמדה המדיני של הארץ.",
    ),
    # hi verse danda
    (
        "hi",
        "रघुपति राघव राजाराम, पतित पावन सीताराम ॥\n"
        "सीताराम सीताराम, भज प्यारे तू सीताराम ॥\n"
        "ईश्वर अल्लाह तेरो नाम, सब को सन्मति दे भगवान ॥\n"
        "राम रहीम करीम समान, हम सब हैं उनकी संतान ॥\n"
        "सब मिल माँगें यह वरदान, हमारा रहे मानव का ज्ञान ॥\n"
        "यह प्रार्थना प्रातःकाल और सायंकाल को आश्रम में गाई जाती थी, और सब लोग मिलकर इसे गाते थे ॥",
    ),
    # vi
    (
        "vi",
        "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền. Mọi con người đều được tạo hoá ban cho lý trí và lương tâm và cần phải đối xử với nhau trong tình bằng hữu. Mọi người đều được hưởng tất cả những quyền và tự do nêu trong bản Tuyên ngôn này, không phân biệt chủng tộc, màu da, giới tính, ngôn ngữ, tôn giáo.",
    ),
    # vi kieu
    (
        "vi",
        "Trăm năm trong cõi người ta,\n"
        "Chữ tài chữ mệnh khéo là ghét nhau.\n"
        "Trải qua một cuộc bể dâu,\n"
        "Những điều trông thấy mà đau đớn lòng.\n"
        "Lạ gì bỉ sắc tư phong,\n"
        "Trời xanh quen thói má hồng đánh ghen.\n"
        "Cảo thơm lần giở trước đèn,\n"
        "Phong tình cổ lục còn truyền sử xanh.",
    ),
    # el
    (
        "el",
        "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι με λογική και συνείδηση, και οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης. Κάθε άνθρωπος δικαιούται να επικαλείται όλα τα δικαιώματα και όλες τις ελευθερίες που προκηρύσσει η παρούσα Διακήρυξη, χωρίς καμία απολύτως διάκριση, ειδικότερα ως προς τη φυλή, το χρώμα, το φύλο, τη γλώσσα, τις θρησκείες;",
    ),
    # ru poem
    (
        "ru",
        "Я помню чудное мгновенье:\n"
        "Передо мной явилась ты,\n"
        "Как мимолетное виденье,\n"
        "Как гений чистой красоты.\n"
        "\n"
        "В томленьях грусти безнадежной,\n"
        "В тревогах шумной суеты,\n"
        "Звучал мне долго голос нежный\n"
        "И снились милые черты.\n"
        "\n"
        "Шли годы. Бурь порыв мятежный\n"
        "Рассеял прежние мечты,\n"
        "И я забыл твой голос нежный,\n"
        "Твои небесные черты.\n"
        "\n"
        "В глуши, во мраке заточенья\n"
        "Тянулись тихо дни мои\n"
        "Без божества, без вдохновенья,\n"
        "Без слез, без жизни, без любви.",
    ),
    # en poem refrain
    (
        "en",
        "Once upon a midnight dreary, while I pondered, weak and weary,\n"
        "Over many a quaint and curious volume of forgotten lore—\n"
        "While I nodded, nearly napping, suddenly there came a tapping,\n"
        "As of some one gently rapping, rapping at my chamber door.\n"
        "“’Tis some visitor,” I muttered, “tapping at my chamber door—\n"
        "Only this and nothing more.”",
    ),
    # en sonnet commas
    (
        "en",
        "Shall I compare thee to a summer’s day?\n"
        "Thou art more lovely and more temperate:\n"
        "Rough winds do shake the darling buds of May,\n"
        "And summer’s lease hath all too short a date;\n"
        "Sometime too hot the eye of heaven shines,\n"
        "And often is his gold complexion dimm’d;\n"
        "And every fair from fair sometime declines,\n"
        "By chance or nature’s changing course untrimm’d;\n"
        "But thy eternal summer shall not fade,\n"
        "Nor lose possession of that fair thou ow’st;\n"
        "Nor shall death brag thou wander’st in his shade,\n"
        "When in eternal lines to time thou grow’st:\n"
        "So long as men can breathe or eyes can see,\n"
        "So long lives this, and this gives life to thee.",
    ),
    # en if - commas
    (
        "en",
        "If you can keep your head when all about you\n"
        "Are losing theirs and blaming it on you,\n"
        "If you can trust yourself when all men doubt you,\n"
        "But make allowance for their doubting too;\n"
        "If you can wait and not be tired by waiting,\n"
        "Or being lied about, don’t deal in lies,\n"
        "Or being hated, don’t give way to hating,\n"
        "And yet don’t look too good, nor talk too wise:",
    ),
    # en preamble whereas
    (
        "en",
        "Whereas recognition of the inherent dignity and of the equal and inalienable rights of all members of the human family is the foundation of freedom, justice and peace in the world,\n"
        "Whereas disregard and contempt for human rights have resulted in barbarous acts which have outraged the conscience of mankind, and the advent of a world in which human beings shall enjoy freedom of speech and belief has been proclaimed as the highest aspiration of the common people,\n"
        "Whereas it is essential, if man is not to be compelled to have recourse, as a last resort, to rebellion against tyranny and oppression, that human rights should be protected by the rule of law,",
    ),
    # song refrain en
    (
        "en",
        "Should auld acquaintance be forgot,\n"
        "and never brought to mind?\n"
        "Should auld acquaintance be forgot,\n"
        "and auld lang syne?\n"
        "\n"
        "For auld lang syne, my dear,\n"
        "for auld lang syne,\n"
        "we'll take a cup of kindness yet,\n"
        "for auld lang syne.\n"
        "\n"
        "And surely you'll be your pint-stoup!\n"
        "and surely I'll be mine!\n"
        "And we'll take a cup o' kindness yet,\n"
        "for auld lang syne.\n"
        "\n"
        "For auld lang syne, my dear,\n"
        "for auld lang syne,\n"
        "we'll take a cup of kindness yet,\n"
        "for auld lang syne.\n"
        "\n"
        "We two have run about the slopes,\n"
        "and picked the daisies fine;\n"
        "But we've wandered many a weary foot,\n"
        "since auld lang syne.",
    ),
    # amazing grace stanza
    (
        "en",
        "Swing low, sweet chariot,\n"
        "Coming for to carry me home,\n"
        "Swing low, sweet chariot,\n"
        "Coming for to carry me home.\n"
        "\n"
        "I looked over Jordan, and what did I see,\n"
        "Coming for to carry me home?\n"
        "A band of angels coming after me,\n"
        "Coming for to carry me home.\n"
        "\n"
        "Swing low, sweet chariot,\n"
        "Coming for to carry me home,\n"
        "Swing low, sweet chariot,\n"
        "Coming for to carry me home.\n"
        "\n"
        "If you get there before I do,\n"
        "Coming for to carry me home,\n"
        "Tell all my friends I am coming too,\n"
        "Coming for to carry me home.",
    ),
    # recipe en
    (
        "en",
        "Pancakes\n"
        "\n"
        "Ingredients\n"
        "2 cups of flour\n"
        "2 eggs\n"
        "300 ml of milk\n"
        "1 pinch of salt\n"
        "50 g of butter\n"
        "\n"
        "Method\n"
        "1. Put the flour into a bowl and make a well in the centre.\n"
        "2. Add the eggs with a little of the milk and whisk until smooth.\n"
        "3. Pour in the rest of the milk and let the batter rest for half an hour.\n"
        "4. Melt the butter in a pan and fry until golden on both sides.",
    ),
    # math abstract
    (
        "en",
        "We prove that for every n ≥ 2 and every ε > 0 there is a constant C = C(n, ε) such that every graph G with |V(G)| = N and at least C N^{2-1/n+ε} edges contains a copy of K_{n,n}. The proof uses dependent random choice and the fact that Σ_{v} d(v)^n ≥ N (2e(G)/N)^n. We also show that the exponent 2 - 1/n is best possible for n = 2, 3, and that the same bound holds for hypergraphs with the obvious changes.",
    ),
    # faq en
    (
        "en",
        "Q: How do I reset the password of my account?\n"
        "A: Open the settings, choose the account page and follow the link that we send to you by e-mail.\n"
        "Q: How do I delete my account?\n"
        "A: Open the settings, choose the account page and confirm that you want to delete it.\n"
        "Q: Can I change my name later?\n"
        "A: Yes, you can change it once in every thirty days.",
    ),
    # code doc
    (
        "en",
        "numpy.linspace(start, stop, num=50, endpoint=True, retstep=False)\n"
        "\n"
        "Return evenly spaced numbers over a specified interval.\n"
        "\n"
        "Returns num evenly spaced samples, calculated over the interval [start, stop]. The endpoint of the interval can optionally be excluded.\n"
        "\n"
        "Parameters\n"
        "start : array_like\n"
        "    The starting value of the sequence.\n"
        "stop : array_like\n"
        "    The end value of the sequence, unless endpoint is set to False.\n"
        "num : int, optional\n"
        "    Number of samples to generate. Default is 50. Must be non-negative.",
    ),
    # statute en
    (
        "en",
        "(1) A person who contravenes subsection (1) is liable on summary conviction to a fine not exceeding level 3 on the standard scale.\n"
        "(2) A person who contravenes subsection (2) is liable on summary conviction to a fine not exceeding level 4 on the standard scale.\n"
        "(3) A person who contravenes subsection (3) is liable on conviction on indictment to imprisonment for a term not exceeding two years, or to a fine, or to both.\n"
        "(4) In this section “the standard scale” has the meaning given by section 75 of the Criminal Justice Act 1982, and the amount of the fine at each level may be altered by an order that the Secretary of State makes under this Act.",
    ),
    # refs at ends
    (
        "en",
        "The printing press changed the cost of a book within two generations [3]\n"
        "Paper mills followed the presses along the rivers of the south [4, 5]\n"
        "In the north the guilds kept the number of presses low until the war [6]\n"
        "It was only after the war that the trade in books recovered and that the fairs came back to the city [7-9]",
    ),
    # th poem
    (
        "th",
        "สัพเพเหระ ดอกไม้บานในสวน\n"
        "ลมหนาวพัดมาแต่ไกล\n"
        "ใจคิดถึงบ้านเกิดเมืองนอน\n"
        "เดือนเพ็ญสวยเย็นเห็นอร่าม\n"
        "นภาแจ่มนวลดูงาม\n"
        "เย็นชื่นหนอยามเมื่อลมพัดมา",
    ),
    # th tech
    (
        "th",
        "การใช้งาน Docker Compose เพื่อติดตั้ง PostgreSQL และ Redis ให้สร้างไฟล์ docker-compose.yml แล้วรันคำสั่ง docker compose up -d จากนั้นตรวจสอบด้วย docker compose ps ว่าทำงานอยู่หรือไม่",
    ),
    # my short
    (
        "my",
        "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် လည်းကောင်း၊ တူညီလွတ်လပ်သော အခွင့်အရေးများဖြင့် လည်းကောင်း၊ မွေးဖွားလာသူများ ဖြစ်သည်။",
    ),
    # fr dialogue
    (
        "fr",
        "— Bonjour, madame. Avez-vous bien dormi ?\n"
        "— Très bien, merci, et vous-même ?\n"
        "— Assez mal, je dois le dire : le vent a soufflé toute la nuit, et les volets battaient contre le mur de la maison voisine.\n"
        "— Il faudra les faire réparer avant l'hiver, mon ami, sinon personne ne dormira plus dans cette rue.",
    ),
    # ur
    (
        "ur",
        "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔ انہیں ضمیر اور عقل ودیعت ہوئی ہے۔ اس لئے انہیں ایک دوسرے کے ساتھ بھائی چارے کا سلوک کرنا چاہیئے۔ ہر شخص ان تمام آزادیوں اور حقوق کا مستحق ہے جو اس اعلان میں بیان کئے گئے ہیں، اور اس حق پر نسل، رنگ، جنس، زبان، مذہب اور سیاسی تفریق کا کوئی اثر نہ پڑے گا۔",
    ),
    # villanelle
    (
        "en",
        "The night is long, the river slow and deep,\n"
        "And no one comes along the empty lane.\n"
        "I keep the promises I had to keep.\n"
        "\n"
        "The farmer and his dog have gone to sleep,\n"
        "The window shines a little with the rain;\n"
        "The night is long, the river slow and deep.\n"
        "\n"
        "The fields are white with patient, folded sheep,\n"
        "The miller's wheel is turning on the grain,\n"
        "I keep the promises I had to keep.\n"
        "\n"
        "The stars above the churchyard seem to creep,\n"
        "As if the dark had bound them with a chain;\n"
        "The night is long, the river slow and deep.\n"
        "\n"
        "I will not wake the house, I will not weep,\n"
        "Though every door I knocked at was in vain;\n"
        "I keep the promises I had to keep.\n"
        "\n"
        "And you who sow what other men shall reap,\n"
        "Sing softly of the harvest and the pain:\n"
        "The night is long, the river slow and deep.\n"
        "I keep the promises I had to keep.",
    ),
    # ballad
    (
        "en",
        "There lived a wife at Usher's well,\n"
        "And a wealthy wife was she;\n"
        "She had three stout and stalwart sons,\n"
        "And sent them o'er the sea.\n"
        "\n"
        "They had not been a week from her,\n"
        "A week but barely ane,\n"
        "When word came to the carline wife\n"
        "That her three sons were gane.\n"
        "\n"
        "They had not been a week from her,\n"
        "A week but barely three,\n"
        "When word came to the carline wife\n"
        "That her sons she'd never see.",
    ),
    # green grow
    (
        "en",
        "There's nought but care on every hand,\n"
        "In every hour that passes, O:\n"
        "What signifies the life of man,\n"
        "And 'twere not for the lasses, O.\n"
        "\n"
        "Green grow the rashes, O;\n"
        "Green grow the rashes, O;\n"
        "The sweetest hours that e'er I spend,\n"
        "Are spent among the lasses, O.\n"
        "\n"
        "The warly race may riches chase,\n"
        "And riches still may fly them, O;\n"
        "And though at last they catch them fast,\n"
        "Their hearts can ne'er enjoy them, O.\n"
        "\n"
        "Green grow the rashes, O;\n"
        "Green grow the rashes, O;\n"
        "The sweetest hours that e'er I spend,\n"
        "Are spent among the lasses, O.",
    ),
    # heidenroeslein
    (
        "de",
        "Sah ein Knab ein Röslein stehn,\n"
        "Röslein auf der Heiden,\n"
        "War so jung und morgenschön,\n"
        "Lief er schnell, es nah zu sehn,\n"
        "Sah's mit vielen Freuden.\n"
        "Röslein, Röslein, Röslein rot,\n"
        "Röslein auf der Heiden.\n"
        "\n"
        "Knabe sprach: Ich breche dich,\n"
        "Röslein auf der Heiden!\n"
        "Röslein sprach: Ich steche dich,\n"
        "Dass du ewig denkst an mich,\n"
        "Und ich will's nicht leiden.\n"
        "Röslein, Röslein, Röslein rot,\n"
        "Röslein auf der Heiden.",
    ),
    # shuoshu
    (
        "zh",
        "硕鼠硕鼠，无食我黍！三岁贯女，莫我肯顾。逝将去女，适彼乐土。乐土乐土，爰得我所。\n"
        "硕鼠硕鼠，无食我麦！三岁贯女，莫我肯德。逝将去女，适彼乐国。乐国乐国，爰得我直。\n"
        "硕鼠硕鼠，无食我苗！三岁贯女，莫我肯劳。逝将去女，适彼乐郊。乐郊乐郊，谁之永号？",
    ),
    # mugua
    (
        "zh",
        "投我以木瓜，报之以琼琚。匪报也，永以为好也！\n投我以木桃，报之以琼瑶。匪报也，永以为好也！\n投我以木李，报之以琼玖。匪报也，永以为好也！",
    ),
    # taoyao
    (
        "zh",
        "桃之夭夭，灼灼其华。之子于归，宜其室家。\n桃之夭夭，有蕡其实。之子于归，宜其家室。\n桃之夭夭，其叶蓁蓁。之子于归，宜其家人。",
    ),
    # shuli
    (
        "zh",
        "彼黍离离，彼稷之苗。行迈靡靡，中心摇摇。知我者，谓我心忧；不知我者，谓我何求。悠悠苍天，此何人哉？\n"
        "彼黍离离，彼稷之穗。行迈靡靡，中心如醉。知我者，谓我心忧；不知我者，谓我何求。悠悠苍天，此何人哉？\n"
        "彼黍离离，彼稷之实。行迈靡靡，中心如噎。知我者，谓我心忧；不知我者，谓我何求。悠悠苍天，此何人哉？",
    ),
    # song with stanzas
    (
        "zh",
        "长亭外，古道边，芳草碧连天。\n"
        "晚风拂柳笛声残，夕阳山外山。\n"
        "天之涯，地之角，知交半零落。\n"
        "一壶浊酒尽余欢，今宵别梦寒。\n"
        "\n"
        "韶光逝，留无计，今日却分袂。\n"
        "骊歌一曲送别离，相顾却依依。\n"
        "聚虽好，别虽悲，世事堪玩味。\n"
        "来日后会相予期，去去莫迟疑。\n"
        "\n"
        "长亭外，古道边，芳草碧连天。\n"
        "晚风拂柳笛声残，夕阳山外山。\n"
        "天之涯，地之角，知交半零落。\n"
        "一壶浊酒尽余欢，今宵别梦寒。",
    ),
    # modern poem w commas refrain
    (
        "zh",
        "假如我是一只鸟，\n我也应该用嘶哑的喉咙歌唱，\n这被暴风雨所打击着的土地，\n这永远汹涌着我们的悲愤的河流，\n这无止息地吹刮着的激怒的风，",
    ),
    # quatrain commas
    (
        "zh",
        "床前明月光，\n疑是地上霜，\n举头望明月，\n低头思故乡，",
    ),
    # comma prose one line
    (
        "zh",
        "他放下行李，推开那扇吱呀作响的木门，看见院子里的老槐树还在，树下的石桌上落满了叶子，",
    ),
    # tech mostly latin
    (
        "zh",
        "在 PyTorch 中使用 DataLoader 加载 ImageNet 数据集，并用 DistributedDataParallel 在多个 GPU 上训练 ResNet-50。",
    ),
    # tech ml
    (
        "zh",
        "LLaMA 使用 RMSNorm 代替 LayerNorm，用 SwiGLU 代替 ReLU，用 RoPE（Rotary Position Embedding）代替 absolute position embedding。",
    ),
    # tech cli
    (
        "zh",
        "若 git push 报错 non-fast-forward，请先执行 git pull --rebase origin main，解决冲突后再 git push origin HEAD:main。",
    ),
    # tech js
    (
        "zh",
        "在 React 中，useEffect(() => { fetchData(); }, [id]) 会在 id 变化时重新执行 fetchData，而 useMemo 只在依赖变化时重新计算。",
    ),
    # chem
    (
        "zh",
        "将 NaCl 与 AgNO3 溶液混合，生成 AgCl 沉淀：NaCl + AgNO3 = AgCl↓ + NaNO3。再加入 NH3·H2O，沉淀溶解为 [Ag(NH3)2]+。",
    ),
    # math zh 2
    (
        "zh",
        "证明：由 a^2+b^2≥2ab 得 (a+b)^2≤2(a^2+b^2)，所以 a+b≤√(2(a^2+b^2))，当且仅当 a=b 时取等号。",
    ),
    # ja tech 2
    (
        "ja",
        "Docker Compose で PostgreSQL と Redis を起動するには docker compose up -d を実行し、docker compose ps で STATUS を確認します。",
    ),
    # fr comma verse
    (
        "fr",
        "Maître Corbeau, sur un arbre perché,\n"
        "Tenait en son bec un fromage.\n"
        "Maître Renard, par l'odeur alléché,\n"
        "Lui tint à peu près ce langage :\n"
        "Et bonjour, Monsieur du Corbeau,\n"
        "Que vous êtes joli ! que vous me semblez beau !\n"
        "Sans mentir, si votre ramage\n"
        "Se rapporte à votre plumage,\n"
        "Vous êtes le Phénix des hôtes de ces bois.",
    ),
    # nda recitals
    (
        "en",
        "WHEREAS the Company is engaged in the business of designing and selling bicycles for the use of children and of adults in the state;\n"
        "WHEREAS the Supplier owns a workshop in which frames of the kind that the Company sells can be made and painted;\n"
        "WHEREAS the parties wish to set out the terms on which the frames will be made, inspected, delivered and paid for;",
    ),
)

# (language, text, the rule it breaks)
BAD = (
    ("zh", "短文。", "too_short"),
    ("zh", "点击查看更多精彩内容。", "too_short"),
    ("zh", "首页 新闻 体育 财经 娱乐 科技 汽车 房产 教育 旅游 论坛 博客 视频 图片", "line_punctuation"),
    ("zh", "首页\n新闻中心\n体育频道\n财经频道\n娱乐频道\n科技频道\n联系我们\n网站地图", "line_punctuation"),
    ("zh", "版权所有 北京某某科技有限公司 未经许可不得转载 联系我们 网站地图 友情链接 意见反馈", "line_punctuation"),
    ("zh", "震惊！这个城市的房价竟然\n他做了这件事，全网都在看\n速看！明天起这些规定要变\n专家提醒：这几类人要注意", "line_punctuation"),
    ("zh", "非常不错的非常不错的非常不错的非常不错的非常不错的非常不错的非常不错的非常不错的。", "repeated_ngrams"),
    ("zh", "外观漂亮，电池很牛！外观漂亮，电池很牛！外观漂亮，电池很牛！外观漂亮，电池很牛！", "repeated_ngrams"),
    ("zh", "太快了吧！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！！", "alphabetic_ratio"),
    ("zh", "双色球开奖：2019001期 03 08 12 17 25 31 09。2019002期 01 06 14 22 27 30 11。2019003期 05 07 19 23 26 33 02。", "alphabetic_ratio"),
    ("zh", "This page is almost wholly in English, 只有几个汉字。", "alphabetic_ratio"),
    ("ja", "ありがとうございました。ありがとうございました。ありがとうございました。ありがとうございました。", "repeated_ngrams"),
    ("en", "Too short to keep.", "too_short"),
    ("en", "\n".join(f"The quarterly revenue of northern region {n}: 1,204,311 99.512 2018 2019 2020 17.25% 44.11% and altogether 3,117,204 88.4." for n in range(9)), "alphabetic_ratio"),
    ("en", "Buy now and save of the day. " * 14, "repeated_ngrams"),
    ("hi", "सभी को अधिकार है। " * 30, "repeated_ngrams"),
    ("th", "ยินดีต้อนรับสู่เว็บไซต์ของเรา " * 12, "repeated_ngrams"),
    ("th", "หน้าแรก ติดต่อเรา", "too_short"),
    # menu commas
    (
        'zh',
        "首页，\n新闻中心，\n体育频道，\n财经频道，\n娱乐频道，\n科技频道，\n联系我们，\n网站地图，",
        'line_punctuation',
    ),
    # keywords commas
    (
        'zh',
        "减肥，\n减肥药，\n快速减肥，\n减肥方法，\n减肥食谱，\n减肥茶，\n减肥产品，",
        'line_punctuation',
    ),
    # keywords one line
    (
        'zh',
        "北京租房，上海租房，广州租房，深圳租房，杭州租房，南京租房，武汉租房，成都租房，",
        'line_punctuation',
    ),
    # menu dunhao
    (
        'zh',
        "首页、新闻、体育、财经、娱乐、科技、汽车、房产、教育、旅游、论坛、博客、视频、图片、",
        'line_punctuation',
    ),
    # titles headings
    (
        'zh',
        "震惊！这个城市的房价竟然\n他做了这件事，全网都在看\n速看！明天起这些规定要变\n专家提醒：这几类人要注意",
        'line_punctuation',
    ),
    # headlines 2
    (
        'zh',
        "国务院常务会议部署稳就业工作\n全国夏粮收购进展总体顺利\n我国成功发射一颗通信卫星\n多地出台楼市新政\n今年首批铁路新线开通运营",
        'line_punctuation',
    ),
    # contact
    (
        'zh',
        "联系电话：010-12345678\n传真：010-87654321\n地址：北京市朝阳区某某路1号\n邮编：100000",
        'alphabetic_ratio',
    ),
    # latin mostly en
    (
        'zh',
        "This page is almost wholly in English, 只有几个汉字。",
        'alphabetic_ratio',
    ),
    # latin en 2
    (
        'zh',
        "Click here to download the latest version of the driver for Windows 10 and Windows 11 下载。",
        'alphabetic_ratio',
    ),
    # model numbers
    (
        'zh',
        'DELL Inspiron 15-3567 i5 8G 256G SSD 笔记本 HP Pavilion 14 i7 16G 512G SSD 笔记本 ThinkPad X1 Carbon i7 16G 1T SSD 笔记本。',
        'alphabetic_ratio',
    ),
    # tags en
    (
        'zh',
        "Python，Java，JavaScript，HTML，CSS，MySQL，Redis，Docker，Kubernetes，Linux，编程，教程",
        'alphabetic_ratio',
    ),
    # code with comment
    (
        'zh',
        'import os, sys, re, json  # 导入\n'
        'def main(argv): return os.path.join(argv[0], argv[1])  # 主函数\n'
        "if __name__ == '__main__': sys.exit(main(sys.argv))  # 入口。",
        'alphabetic_ratio',
    ),
    # refrain spam
    (
        'zh',
        "加微信领红包！加微信领红包！加微信领红包！今日特价，欲购从速。加微信领红包！加微信领红包！",
        'repeated_ngrams',
    ),
    # spam lines
    (
        'zh',
        "加微信，领红包。\n加微信，领红包。\n加微信，领红包。\n天天有惊喜。\n加微信，领红包。\n加微信，领红包。\n欢迎咨询。\n加微信，领红包。",
        'repeated_lines',
    ),
    # repeat line
    (
        'zh',
        "点击这里下载最新版本。\n点击这里下载最新版本。\n点击这里下载最新版本。\n点击这里下载最新版本。",
        'repeated_lines',
    ),
    # forum boiler
    (
        'zh',
        "发表于 2019-01-01 12:00\n顶一下。\n发表于 2019-01-01 12:03\n顶一下。\n发表于 2019-01-01 12:07\n顶一下。\n发表于 2019-01-01 12:09\n路过。",
        'alphabetic_ratio',
    ),
    # product repeats
    (
        'zh',
        "女装连衣裙夏季新款包邮，女装半身裙夏季新款包邮，女装衬衫夏季新款包邮，女装短裤夏季新款包邮，女装T恤夏季新款包邮。",
        'repeated_ngrams',
    ),
    # ja nav
    (
        'ja',
        "ホーム\n会社概要\nお問い合わせ\nサイトマップ\nプライバシーポリシー\n採用情報\nニュース\nログイン",
        'line_punctuation',
    ),
    # ja spam
    (
        'ja',
        "今すぐクリック！今すぐクリック！今すぐクリック！今すぐクリック！今すぐクリック！",
        'repeated_ngrams',
    ),
    # ja headings
    (
        'ja',
        "人気記事ランキング\n新着情報一覧\nカテゴリー別アーカイブ\nこのサイトについて\n広告掲載のご案内",
        'line_punctuation',
    ),
    # en nav commas
    (
        'en',
        'Home,\n'
        'About us,\n'
        'Contact,\n'
        'Products,\n'
        'Services,\n'
        'Blog,\n'
        'Shop,\n'
        'Login,\n'
        'Terms of the service,\n'
        'Privacy and that,\n'
        'Careers, Press, Partners, Investors, Developers, Community, Support, Status, Sitemap, Language, Currency, Help centre, Returns, Shipping, Orders, Wishlist, Cart, Checkout, Newsletter, Gift cards, Stores, Brands, Offers, Sale, New, Men, Women, Kids, Home and Garden, Sports,',
        'alphabetic_ratio',
    ),
    # en keyword list
    (
        'en',
        'cheap flights to the city,\n'
        'cheap flights with discount,\n'
        'cheap flights of 2020,\n'
        'cheap flights in London,\n'
        'cheap hotels to the city,\n'
        'cheap hotels with discount,\n'
        'cheap hotels of 2020,\n'
        'cheap hotels in London,\n'
        'cheap cars to the city,\n'
        'cheap cars with discount,\n'
        'cheap cars of 2020,\n'
        'cheap cars in London,\n'
        'cheap insurance to the city,\n'
        'cheap insurance with discount,\n'
        'cheap insurance of 2020,\n'
        'cheap insurance in London,\n'
        'cheap loans to the city,\n'
        'cheap loans with discount,\n'
        'cheap loans of 2020,\n'
        'cheap loans in London,',
        'line_punctuation',
    ),
    # en spam chorus
    (
        'en',
        'Buy cheap watches here, the best of the web.\n'
        'Click the link below to get a discount.\n'
        'Buy cheap watches here, the best of the web.\n'
        'Order now and save with that code.\n'
        'Buy cheap watches here, the best of the web.\n'
        'Click the link below to get a discount.\n'
        'Buy cheap watches here, the best of the web.\n'
        'Free shipping to all of the countries.\n'
        'Buy cheap watches here, the best of the web.\n'
        'Click the link below to get a discount.',
        'repeated_lines',
    ),
    # en comments
    (
        'en',
        'Posted by admin on Monday\n'
        'Reply to this comment with the form.\n'
        'Like this post\n'
        'Share that\n'
        'Posted by admin on Tuesday\n'
        'Reply to this comment with the form.\n'
        'Like this post\n'
        'Share that\n'
        'Posted by admin on Friday\n'
        'Reply to this comment with the form.\n'
        'Like this post\n'
        'Share that\n'
        'Posted by guest on Sunday\n'
        'Reply to this comment with the form.\n'
        'Like this post\n'
        'Share that',
        'repeated_lines',
    ),
    # th nav
    (
        'th',
        "หน้าแรก\nข่าวสาร\nกีฬา\nบันเทิง\nติดต่อเรา\nแผนผังเว็บไซต์\nเข้าสู่ระบบ\nสมัครสมาชิก",
        'too_short',
    ),
    # th short
    (
        'th',
        "คลิกที่นี่เพื่อดูรายละเอียดเพิ่มเติม",
        'too_short',
    ),
    # ko spam
    (
        'ko',
        '지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다. 지금 클릭하세요 무료 쿠폰을 드립니다.',
        'repeated_ngrams',
    ),
    # ru nav
    (
        'ru',
        "Главная\nО\nкомпании\nНовости\nКонтакты\nКаталог\nДоставка\nОплата\nОтзывы\nВакансии\nКарта\nсайта",
        'too_short',
    ),
    # kw lines w/ long
    (
        'zh',
        "北京租房信息网，\n上海租房信息网，\n广州租房信息网，\n深圳租房信息网，\n杭州租房信息网，",
        'repeated_ngrams',
    ),
    # phrases 5
    (
        'zh',
        "男士皮鞋，女士皮鞋，儿童皮鞋，真皮皮鞋，商务皮鞋，休闲皮鞋，",
        'line_punctuation',
    ),
    # glossary
    (
        'zh',
        "apple 苹果，banana 香蕉，orange 橙子，pear 梨，grape 葡萄，peach 桃子，watermelon 西瓜，strawberry 草莓。",
        'alphabetic_ratio',
    ),
    # en article w/ zh
    (
        'zh',
        'The committee met on Tuesday to discuss the new bridge that will cross the river. 委员会在星期二开会，讨论了新的桥。 Several members said that the cost was too high, and they asked for a second plan.',
        'alphabetic_ratio',
    ),
    # goods w/ 的
    (
        'zh',
        'iPhone 12 Pro Max 256GB Unlocked / Samsung Galaxy S21 Ultra 5G / Xiaomi Mi 11 Ultra / OnePlus 9 Pro / Huawei P50 Pro 现货，支持花呗分期。',
        'alphabetic_ratio',
    ),
    # error log
    (
        'zh',
        '2021-03-04 12:00:01 ERROR [main] com.example.Service - java.lang.NullPointerException at com.example.Service.run(Service.java:42) 服务异常，请联系管理员。',
        'alphabetic_ratio',
    ),
    # english ui
    (
        'zh',
        "Home About Products Services Contact Login Register 首页 关于 产品 服务 联系 登录 注册。",
        'alphabetic_ratio',
    ),
    # spam stanza
    (
        'zh',
        '加微信领红包，天天都有。\n'
        '新款连衣裙，特价包邮。\n'
        '加微信领红包，天天都有。\n'
        '\n'
        '加微信领红包，天天都有。\n'
        '男士运动鞋，特价包邮。\n'
        '加微信领红包，天天都有。\n'
        '\n'
        '加微信领红包，天天都有。\n'
        '儿童学步车，特价包邮。\n'
        '加微信领红包，天天都有。',
        'repeated_lines',
    ),
    # product stanzas
    (
        'en',
        'Red leather shoes for the winter\n'
        'In stock\n'
        'Add to cart for the best price\n'
        '\n'
        'Blue woollen hat for the winter\n'
        'In stock\n'
        'Add to cart for the best price\n'
        '\n'
        'Green cotton scarf for the spring\n'
        'In stock\n'
        'Add to cart for the best price\n'
        '\n'
        'Black silk gloves with the lining\n'
        'In stock\n'
        'Add to cart for the best price\n'
        '\n'
        'White linen shirt that fits\n'
        'In stock\n'
        'Add to cart for the best price',
        'line_punctuation',
    ),
    # forum stanzas
    (
        'en',
        'Posted by anna on Monday.\n'
        'I think that the new version is much better than the one of last year.\n'
        'Reply.\n'
        'Like.\n'
        '\n'
        'Posted by bob on Monday.\n'
        'No, it crashes every time I open the settings, and the update did not help.\n'
        'Reply.\n'
        'Like.\n'
        '\n'
        'Posted by carl on Tuesday.\n'
        'You have to remove the old one first and then install the new one again.\n'
        'Reply.\n'
        'Like.',
        'repeated_lines',
    ),
    # seo
    (
        'en',
        'Cheap hotels in London are what you want when you look for cheap hotels in London. With cheap hotels in London you have the best of the city, and the cheap hotels in London that we have are the cheap hotels in London to be in. Book cheap hotels in London now and save on cheap hotels in London for the whole of the week.',
        'repeated_ngrams',
    ),
    # template page
    (
        'en',
        'Plumber in Leeds: we are the best plumber in Leeds and in all of the towns near it. Call the number below to get a free quote from a plumber in Leeds today.\n'
        'Plumber in York: we are the best plumber in York and in all of the towns near it. Call the number below to get a free quote from a plumber in York today.\n'
        'Plumber in Hull: we are the best plumber in Hull and in all of the towns near it. Call the number below to get a free quote from a plumber in Hull today.',
        'repeated_ngrams',
    ),
    # comma tags
    (
        'en',
        'running shoes for men, running shoes for women, trail running shoes, the best running shoes of 2020, cheap running shoes, running shoes with wide toe box, running shoes to buy online, waterproof running shoes, running shoes sale, kids running shoes, running shoes and socks, light running shoes, red running shoes, running shoes near me,',
        'line_punctuation',
    ),
    # labels colon en
    (
        'en',
        'Name of the person that applies for the licence:\n'
        'Address of the person that applies for the licence:\n'
        'Date of birth and place of birth of the applicant:\n'
        'Signature of the applicant and of the parent:\n'
        'Name of the officer that receives the form:\n'
        'Date on which the form was received by the office:',
        'line_punctuation',
    ),
    # csv
    (
        'en',
        'Name, Age, City, Country, Phone, Email, Company, Department, Salary, Start,\n'
        'Anna, 34, Leeds, England, 555, anna, Example, Sales, 30000, May,\n'
        'Bob, 45, York, England, 556, bob, Example, Sales, 31000, June,\n'
        'Carl, 29, Hull, England, 557, carl, Example, IT, 32000, July,\n'
        'Dora, 51, Bath, England, 558, dora, Example, HR, 33000, April, of the and that with',
        'alphabetic_ratio',
    ),
    # ja goods
    (
        'ja',
        "ノートパソコン DELL Inspiron HP Pavilion Lenovo ThinkPad ASUS ZenBook Apple MacBook Air SSD 256GB 512GB 送料無料 在庫あり。",
        'alphabetic_ratio',
    ),
    # a text twice
    (
        'en',
        'The committee met on Tuesday to talk about the budget,\n'
        'and the members of the board were all there in time.\n'
        'They said that the road would be built in the spring.\n'
        '\n'
        'The committee met on Tuesday to talk about the budget,\n'
        'and the members of the board were all there in time.\n'
        'They said that the road would be built in the spring.',
        'repeated_paragraphs',
    ),
    (
        'zh',
        '今天的会议在北京举行，\n大家都说这个计划是很好的。\n他们将在春天开始修路，\n没有人知道剩下的钱怎么办。\n'
        '\n'
        '今天的会议在北京举行，\n大家都说这个计划是很好的。\n他们将在春天开始修路，\n没有人知道剩下的钱怎么办。',
        'repeated_paragraphs',
    ),
    # goods by number
    (
        'en',
        'Buy the best cheap watches that we have for you online now, number 1.\n'
        'Buy the best cheap watches that we have for you online now, number 2.\n'
        'Buy the best cheap watches that we have for you online now, number 3.\n'
        '\n'
        'Buy the best cheap watches that we have for you online now, number 4.\n'
        'Buy the best cheap watches that we have for you online now, number 5.\n'
        'Buy the best cheap watches that we have for you online now, number 6.',
        'repeated_ngrams',
    ),
    # a template, filled in
    (
        'en',
        'The best plumber in Leeds is here to help you today.\n'
        'Call us for a quote in Leeds and all of the towns.\n'
        'We have been the plumber of Leeds for thirty years.\n'
        '\n'
        'The best plumber in York is here to help you today.\n'
        'Call us for a quote in York and all of the towns.\n'
        'We have been the plumber of York for thirty years.',
        'repeated_ngrams',
    ),
)  # fmt: skip
