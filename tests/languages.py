"""Fluent text in eight languages, of everyday words in varied sentences, for what must treat all scripts alike."""

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """How a language makes sentences: lists of phrases, the order of their initials in a sentence, and what joins them.

    `said` are sentences' beginnings that carry function words, as in "the newspaper wrote that".
    """

    code: str
    times: str
    subjects: str
    verbs: str
    objects: str
    places: str
    said: str
    order: str
    blank: str = " "
    end: str = ". "

    def document(self, seed: int, paragraphs: int = 3, sentences: int = 4, half: int | None = None) -> str:
        """Paragraphs of sentences in which phrases come back late; equal arguments give equal text.

        Args:
            seed: Of the choice of phrases.
            paragraphs: How many, a line each.
            sentences: How many in each.
            half: Takes every second phrase only, but for times and beginnings: halves 0 and 1 have nothing else in common.
        """
        rng = random.Random(f"{self.code} {seed}")
        slots = {"T": self.times, "S": self.subjects, "V": self.verbs, "O": self.objects, "P": self.places}
        drawn = {
            slot: _in_turn(rng, phrases, None if slot == "T" else half) for slot, phrases in slots.items()
        }
        said = _in_turn(rng, self.said)
        lines = []
        for _ in range(paragraphs):
            line = ""
            for number in range(sentences):
                parts = [next(said)] * (number == 2) + [next(drawn[slot]) for slot in self.order]
                text = self.blank.join(parts)
                line += text[0].upper() + text[1:] + self.end
            lines.append(line.strip())
        return "\n".join(lines)


def _in_turn(rng: random.Random, phrases: str, half: int | None = None) -> Iterator[str]:
    """All phrases in random order, again and again."""
    chosen = phrases.split("|")[slice(half, None, None if half is None else 2)]
    while True:
        yield from rng.sample(chosen, len(chosen))


LANGUAGES = {
    language.code: language
    for language in (
        Language(
            "eng",
            "yesterday|in the spring|every morning|after the storm|last year|during the holidays|before sunrise|on that day",
            "the committee|a small boat|our neighbour|the old library|the young doctor|her brother|a group of students|"
            "the village school|my grandmother|the new teacher|a travelling merchant|the fire brigade",
            "repaired|described|measured|forgot|painted|carried away|discovered|photographed|sold|protected",
            "the harbour wall|three wooden chairs|a letter from the north|the price of bread|every lamp in the street|"
            "the roof of the church|some rare plants|an old map of the city|the broken bridge|a basket of apples|"
            "the music of the region|a box full of tools",
            "near the station|behind the market hall|with great patience|for the museum|without any help|at the river|"
            "in a quiet valley|with the whole family",
            "the newspaper wrote that|it is well known that|many people believe that|we have been told that",
            "TSVOP",
        ),
        Language(
            "deu",
            "gestern|im Frühling|jeden Morgen|nach dem Sturm|im vergangenen Jahr|während der Ferien|vor Sonnenaufgang|an jenem Tag",
            "der Ausschuss|ein kleines Boot|unsere Nachbarin|die alte Bibliothek|der junge Arzt|ihr Bruder|eine Gruppe Schüler|"
            "die Dorfschule|meine Großmutter|der neue Lehrer|ein reisender Händler|die Feuerwehr",
            "reparierte|beschrieb|vermaß|vergaß|bemalte|brachte|entdeckte|fotografierte|verkaufte|schützte",
            "die Hafenmauer|drei Holzstühle|einen Brief aus dem Norden|das Brot vom Vortag|jede Lampe in der Straße|"
            "das Dach der Kirche|einige seltene Pflanzen|eine alte Karte der Stadt|die zerbrochene Brücke|einen Korb Äpfel|"
            "die Instrumente der Gegend|eine Kiste voller Werkzeuge",
            "in der Nähe des Bahnhofs|hinter der Markthalle|mit großer Geduld|für das Museum|ohne jede Hilfe|am Fluss|"
            "in einem stillen Tal|mit der ganzen Familie",
            "die Zeitung hat es geschrieben:|es ist allgemein bekannt:|viele Leute glauben auch das:|so wurde es uns erzählt:",
            "TVSOP",
        ),
        Language(
            "jpn",
            "昨日、|春になると|毎朝、|嵐の後で|去年の秋に|休みの間に|夜明け前から|その日の午後、",
            "委員会の人々は|小さな船の船長は|隣の家族は|古い図書館の職員は|若い医者は|彼女の兄は|学生の仲間たちは|村の小学校は|"
            "私の祖母は|新しい先生は|旅の商人は|町の消防団は",
            "丁寧に直しました|詳しく説明しました|何度も測っています|すっかり忘れていました|明るい色に塗りました|遠くまで運びました|"
            "偶然見つけました|写真に撮りました|安く売っています|大切に守っています",
            "港の長い壁を|三つの木の椅子を|北から届いた手紙を|朝のパンの値段を|通りの電灯を全部|教会の屋根を|珍しい植物を|"
            "町の古い地図を|壊れた橋を|りんごの入ったかごを|地方に伝わる音楽を|道具でいっぱいの箱を",
            "駅の近くで|市場の裏で|博物館のために|誰の助けもなしに|川のほとりで|静かな谷間で|家族みんなで|とても辛抱強く",
            "新聞によると、|よく知られているように、|多くの人が信じているとおり、|私たちが聞いたところでは、",
            "TSPOV",
            "",
            "。",
        ),
        Language(
            "zho",
            "昨天下午，|春天来的时候，|每天早上，|暴风雨过后，|去年秋天，|在放假期间，|太阳出来以前，|就在那一天，",
            "委员会的成员|小船的船长|我们的邻居|老图书馆的职员|那位年轻的医生|她的哥哥|几个大学生|村里的小学|我的祖母|新来的老师|"
            "一个流动商人|镇上的消防队",
            "修好了|详细描述了|仔细测量了|完全忘记了|重新粉刷了|一起搬走了|意外发现了|拍摄了|便宜地卖掉了|小心地保护了",
            "港口的长墙|三把木头椅子|北方寄来的信|面包的价格表|街上所有的路灯|教堂的屋顶|一些稀有植物|一张城市的旧地图|那座断桥|"
            "一篮子苹果|当地流传的音乐|一个装满工具的箱子",
            "在车站附近|在市场后面|为了博物馆|没有任何帮助就|在河边|在安静的山谷里|和全家人一起|非常耐心地",
            "报纸上写道，|大家都知道，|很多人相信，|我们听别人说，",
            "TSPVO",
            "",
            "。",
        ),
        Language(
            "kor",
            "어제 오후에|봄이 오면|매일 아침|폭풍이 지난 뒤에|작년 가을에|방학 동안|해가 뜨기 전에|바로 그날",
            "위원회 사람들은|작은 배의 선장은|우리 이웃은|오래된 도서관의 직원은|젊은 의사는|그녀의 오빠는|몇몇 대학생들은|마을 초등학교는|"
            "나의 할머니는|새로 온 선생님은|떠돌이 상인은|시내 소방대는",
            "정성껏 고쳤다|자세히 설명했다|여러 번 재었다|완전히 잊어버렸다|밝은 색으로 칠했다|멀리까지 옮겼다|우연히 발견했다|사진으로 찍었다|"
            "싼값에 팔았다|소중하게 지켰다",
            "항구의 긴 벽을|나무 의자 세 개를|북쪽에서 온 편지를|빵의 가격을|거리의 모든 등불을|교회의 지붕을|희귀한 식물을|도시의 낡은 지도를|"
            "부서진 다리를|사과 한 바구니를|이 지방의 음악을|연장이 가득한 상자를",
            "역 근처에서|시장 뒤에서|박물관을 위해|아무 도움 없이|강가에서|조용한 골짜기에서|온 가족과 함께|아주 참을성 있게",
            "신문에 따르면|잘 알려진 것처럼|많은 사람이 믿고 있듯이|우리가 들은 바로는",
            "TSPOV",
        ),
        Language(
            "tha",
            "เมื่อวานนี้|ในฤดูใบไม้ผลิ|ทุกเช้า|หลังพายุผ่านไป|เมื่อปีที่แล้ว|ระหว่างวันหยุด|ก่อนพระอาทิตย์ขึ้น|ในวันนั้น",
            "คณะกรรมการ|กัปตันเรือลำเล็ก|เพื่อนบ้านของเรา|เจ้าหน้าที่ห้องสมุดเก่า|หมอหนุ่ม|พี่ชายของเธอ|กลุ่มนักศึกษา|โรงเรียนในหมู่บ้าน|"
            "คุณยายของฉัน|ครูคนใหม่|พ่อค้าเร่|หน่วยดับเพลิง",
            "ซ่อมแซม|อธิบายถึง|วัดขนาด|ลืม|ทาสี|ขนย้าย|ค้นพบ|ถ่ายรูป|ขาย|ปกป้อง",
            "กำแพงท่าเรือ|เก้าอี้ไม้สามตัว|จดหมายจากทางเหนือ|ขนมปังราคาถูก|โคมไฟทุกดวงบนถนน|หลังคาโบสถ์|พืชหายาก|แผนที่เก่าของเมือง|"
            "สะพานที่พัง|ตะกร้าแอปเปิล|เครื่องดนตรีพื้นเมือง|กล่องที่เต็มไปด้วยเครื่องมือ",
            "ใกล้สถานี|หลังตลาด|เพื่อพิพิธภัณฑ์|โดยไม่มีใครช่วย|ที่ริมแม่น้ำ|ในหุบเขาที่เงียบสงบ|กับทั้งครอบครัว|ด้วยความอดทน",
            "หนังสือพิมพ์เขียนว่า|เป็นที่รู้กันว่า|หลายคนเชื่อว่า|มีคนบอกพวกเราว่า",
            "SVOPT",
            "",
            " ",
        ),
        Language(
            "arb",
            "بالأمس|في فصل الربيع|في كل صباح|بعد العاصفة|في العام الماضي|خلال العطلة|قبل شروق الشمس|في ذلك اليوم",
            "رئيس اللجنة|قبطان السفينة الصغيرة|جارنا القديم|موظف المكتبة|الطبيب الشاب|أخوها الأكبر|طالب من الجامعة|مدير المدرسة|"
            "جدي العزيز|المعلم الجديد|تاجر متجول|رجل الإطفاء",
            "أصلح|وصف|قاس|نسي|رسم|نقل|اكتشف|صور|باع|حمى",
            "جدار الميناء|ثلاثة كراسي خشبية|رسالة من الشمال|سعر الخبز|كل مصباح في الشارع|سقف الكنيسة|بعض النباتات النادرة|"
            "خريطة قديمة للمدينة|الجسر المكسور|سلة من التفاح|موسيقى المنطقة|صندوقا مليئا بالأدوات",
            "بالقرب من المحطة|خلف السوق|بصبر كبير|من أجل المتحف|دون أي مساعدة|عند النهر|في واد هادئ|مع كل العائلة",
            "كتبت الصحيفة أن هذا ما حدث،|من المعروف أن هذا صحيح،|يعتقد كثير من الناس ذلك،|هذا هو ما قيل لنا،",
            "VSOPT",
        ),
        Language(
            "hin",
            "हर शाम|वसंत के मौसम में|हर सुबह|तूफान के बाद|पिछले साल से|छुट्टियों के दौरान|सूरज निकलने से पहले|उस दिन के बाद",
            "समिति का सदस्य|छोटी नाव का मालिक|हमारा पड़ोसी|पुराने पुस्तकालय का कर्मचारी|जवान डॉक्टर|उसका भाई|कॉलेज का छात्र|"
            "गाँव का स्कूल|मेरा दादा|नया अध्यापक|घूमने वाला व्यापारी|दमकल का सिपाही",
            "ठीक करता है|समझाता है|नापता है|भूल जाता है|रंगता है|उठा ले जाता है|खोज लेता है|चित्र में उतारता है|बेचता है|बचाता है",
            "बंदरगाह की दीवार|लकड़ी की तीन कुर्सियाँ|उत्तर से आया पत्र|रोटी की कीमत|सड़क का हर दीपक|मंदिर की छत|कुछ दुर्लभ पौधे|"
            "शहर का पुराना नक्शा|टूटा हुआ पुल|सेब की टोकरी|इस इलाके का संगीत|औज़ारों से भरा डिब्बा",
            "स्टेशन के पास|बाज़ार के पीछे|बड़े धीरज के साथ|संग्रहालय के लिए|बिना किसी मदद के|नदी के किनारे|एक शांत घाटी में|पूरे परिवार के साथ",
            "अख़बार ने लिखा है कि|सब लोग जानते हैं कि|बहुत लोग मानते हैं कि|हमें यह बताया गया कि",
            "TSPOV",
            " ",
            "। ",
        ),
    )
}
